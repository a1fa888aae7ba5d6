"""Ratings by a reward model of several outputs: each is known by the name in the model's own config, never by its place.

The outputs are linear in the last hidden state and have no bias; `rating_offset` and `rating_unit` of the config turn them into
ratings. All of them share both, so that the angle between two ratings means something.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import pstdev
from typing import TYPE_CHECKING

from tasks.runtime.models import (
    check_folder,
    check_vocabulary,
    encode_completion,
    encode_prompt,
    load_tokenizer,
    load_weights,
    on_device,
)
from tasks.runtime.params import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Ratings = dict[str, float]
"""Rating of an answer by attribute, about 0 to 100."""
MOST_RATIO = 1.5
"""Largest ratio of two attributes' standard deviations with which a direction still means what it says."""


@dataclass(frozen=True)
class Rater:
    """A reward model with several outputs."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    names: Sequence[str]
    """Attribute of every output, in the order of the outputs."""
    offset: float = 0.0
    unit: float = 1.0
    """A rating is offset + unit * output."""


def load_rater(folder: Path, attributes: Sequence[str]) -> Rater:
    """Load a reward model that rates at least `attributes`. Raises UserError when it was never trained or lacks one of them."""
    from transformers import AutoModelForSequenceClassification

    check_folder(folder)
    tokenizer = load_tokenizer(folder)
    model, missing = load_weights(AutoModelForSequenceClassification, folder)
    if missing:
        raise UserError(f"{folder}: not a reward model: it has no weights for {', '.join(missing)}; train it with dpa-reward")
    check_vocabulary(folder, model, tokenizer)
    if model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    facts = model.config.to_dict()
    names = [facts["id2label"][number] for number in range(len(facts["id2label"]))]
    if lacking := [name for name in attributes if name not in names]:
        raise UserError(f"{folder}: rates {', '.join(names)}, not {', '.join(lacking)}; its config must name every output")
    return Rater(on_device(model), tokenizer, names, facts.get("rating_offset", 0.0), facts.get("rating_unit", 1.0))


def rate(rater: Rater, answers: Sequence[tuple[str, str]], batch_size: int) -> list[Ratings]:
    """Return the ratings of each (prompt, answer), by attribute, read at the answer's last token.

    Puts the model in eval mode. Raises UserError for a text longer than its context, or a rating that is not a finite number.
    """
    import torch

    encoded = [encode_prompt(rater.tokenizer, prompt) + encode_completion(rater.tokenizer, text) for prompt, text in answers]
    context = rater.model.config.get_text_config().max_position_embeddings
    if encoded and (longest := max(map(len, encoded))) > context:
        raise UserError(f"an answer and its prompt have {longest} tokens; the reward model takes {context}")
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    found: list[Ratings] = [{} for _ in encoded]
    rater.model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for index, outputs in zip(batch, _outputs(rater.model, [encoded[index] for index in batch]), strict=True):
                found[index] = {name: rater.offset + rater.unit * out for name, out in zip(rater.names, outputs, strict=True)}
    _check_finite(found, answers)
    return found


def _outputs(model: PreTrainedModel, texts: list[list[int]]) -> list[list[float]]:
    import torch

    width, pad = max(map(len, texts)), model.config.get_text_config().pad_token_id
    ids_BT = torch.tensor([ids + [pad] * (width - len(ids)) for ids in texts], device=model.device)
    mask_BT = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in texts], device=model.device)
    outputs: list[list[float]] = model(ids_BT, attention_mask=mask_BT, use_cache=False).logits.float().tolist()
    return outputs


def _check_finite(ratings: Sequence[Ratings], answers: Sequence[tuple[str, str]]) -> None:
    for values, (prompt, text) in zip(ratings, answers, strict=True):
        if not all(map(math.isfinite, values.values())):
            raise UserError(f"the reward model rates {text!r} as the answer to {prompt!r} with {values}; train it again")


def check_scale(ratings: Sequence[Mapping[str, float]], attributes: Sequence[str], where: str) -> dict[str, float]:
    """Return the standard deviation of each attribute. Raises UserError naming two that differ by more than MOST_RATIO."""
    spread = {name: pstdev(values[name] for values in ratings) for name in attributes}
    low, high = min(spread, key=spread.__getitem__), max(spread, key=spread.__getitem__)
    if spread[high] > MOST_RATIO * spread[low]:
        raise UserError(
            f"{where}: standard deviation {spread[high]:.2f} of {high} but {spread[low]:.2f} of {low}, more than {MOST_RATIO:g} "
            "times as much, so an angle between them means nothing; bring the ratings to one scale and train again"
        )
    return spread
