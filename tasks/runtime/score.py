"""Scores of a reward model, in batches of like length: what ranks samples, pairs and whole policies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.runtime.models import encode_completion, encode_prompt
from tasks.runtime.params import UserError
from tasks.runtime.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answers: Sequence[tuple[str, str]],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> list[float]:
    """Return the reward of each (prompt, completion), read at the last token of the right-padded text, in the model's own units.

    Equal for every `batch_size` up to rounding. Puts the model in eval mode. Raises UserError when a text is longer than the
    model's context, or the model gives a reward that is not a finite number. `progress` counts answers.
    """
    import torch

    texts = [encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, completion) for prompt, completion in answers]
    context = model.config.get_text_config().max_position_embeddings
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    if order and len(texts[order[-1]]) > context:
        raise UserError(
            f"answer {order[-1]} and its prompt have {len(texts[order[-1]])} tokens; the reward model takes {context}"
        )
    rewards = [0.0] * len(texts)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for index, reward in zip(batch, _score_batch(model, [texts[index] for index in batch]), strict=True):
                rewards[index] = reward
            if progress:
                progress.advance(len(batch))
    _check_finite(rewards, answers)
    return rewards


def _score_batch(model: PreTrainedModel, texts: list[list[int]]) -> list[float]:
    import torch

    width, pad = max(map(len, texts)), model.config.get_text_config().pad_token_id
    ids_BT = torch.tensor([ids + [pad] * (width - len(ids)) for ids in texts], device=model.device)
    mask_BT = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in texts], device=model.device)
    logits_B1 = model(ids_BT, attention_mask=None if mask_BT.all() else mask_BT, use_cache=False).logits
    rewards: list[float] = logits_B1[:, 0].float().tolist()
    return rewards


def _check_finite(rewards: list[float], answers: Sequence[tuple[str, str]]) -> None:
    """Raise UserError naming the first answer whose reward is NaN or infinite: an argmax over such rewards means nothing."""
    for reward, (prompt, completion) in zip(rewards, answers, strict=True):
        if not math.isfinite(reward):
            raise UserError(
                f"the reward model gives {reward} to {completion!r} as the answer to {prompt!r}; its weights are damaged or its "
                "training diverged: train it again, with a lower reward.learning_rate"
            )
