"""Asks a model many questions: greedy answers, samples, and how likely it finds given texts.

Every text is plain: no chat template stands around it, as the base models that are asked have never seen one. Questions are
asked in an order of their own, by length and id, in portions that a killed run finds again; so no number depends on the order
they come in, and on the size of a batch only by rounding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.generate import Shaping, generate_ids
from tasks.runtime.params import UserError
from tasks.runtime.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PORTION = 512
"""Prompts between two checkpoints."""
Ids = Sequence[int]


@dataclass(frozen=True)
class Answer:
    """The greedy answer to one prompt."""

    ids: list[int]
    """Its tokens, without the one that stopped it."""
    logprobs: list[float]
    """Log-probability of each token in nats, given the prompt and those before it."""
    text: str

    @property
    def logprob(self) -> float:
        """Log-probability of the whole answer, its end not counted."""
        return math.fsum(self.logprobs)


def plain(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return the tokenizer without its chat template: prompts are continued as running text."""
    tokenizer.chat_template = None
    return tokenizer


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Ids],
    *,
    max_new_tokens: int,
    batch_size: int,
    forbidden: frozenset[int] = frozenset(),
) -> list[Answer]:
    """Return the greedy answer to every prompt, given as token ids, each with the probabilities of its tokens.

    With `forbidden` no answer begins with one of these tokens, nor is any empty.
    Raises UserError for a prompt that leaves no room in the context.
    """
    drawn = generate_ids(
        model,
        tokenizer,
        [list(prompt) for prompt in prompts],
        max_new_tokens=max_new_tokens,
        temperature=0,
        seed=0,
        batch_size=batch_size,
        scored=True,
        shaping=Shaping(forbidden=forbidden | {tokenizer.eos_token_id} if forbidden else forbidden),
    )
    return [Answer(one.ids, one.logprobs, str(tokenizer.decode(one.ids, skip_special_tokens=True))) for (one,) in drawn]


def samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Ids],
    streams: Sequence[int],
    *,
    count: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    batch_size: int,
) -> list[list[str]]:
    """Return `count` sampled answers to every prompt; those of a prompt depend on its number in `streams`, not on its place.

    Raises UserError for a temperature of 0: all samples would be one answer, and its entropy says nothing.
    """
    if temperature <= 0:
        raise UserError(f"temperature: {temperature} gives {count} times the same answer; sample above 0 (the paper: 0.7)")
    options: dict[str, Any] = {"samples": count, "temperature": temperature, "seed": seed, "max_new_tokens": max_new_tokens}
    drawn = generate_ids(model, tokenizer, [list(p) for p in prompts], batch_size=batch_size, numbers=streams, **options)
    return [tokenizer.batch_decode([one.ids for one in of_prompt], skip_special_tokens=True) for of_prompt in drawn]


def logprobs_of(
    model: PreTrainedModel, prefixes: Sequence[Ids], continuations: Sequence[Sequence[Ids]], *, batch_size: int
) -> list[list[list[float]]]:
    """Return, for every prefix and each of its continuations, the log-probability of each token, in nats.

    A prefix is computed once for all its continuations. Puts the model in eval mode.
    Raises UserError when a prefix is empty or a text is longer than the model's context.
    """
    _check(model, prefixes, continuations)
    model.eval()
    order = sorted(range(len(prefixes)), key=lambda n: (len(prefixes[n]), n))
    found: list[list[list[float]]] = [[] for _ in prefixes]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        scored = _score(model, [prefixes[n] for n in batch], [continuations[n] for n in batch])
        for number, each in zip(batch, scored, strict=True):
            found[number] = each
    return found


def in_portions(
    items: Sequence[Any], key: Callable[[Any], Any], ask: Callable[[list[Any]], list[Any]], place: Checkpoints, progress: Progress
) -> list[Any]:
    """Return `ask` of all items, one JSON value each, in the items' order; portions found at `place` are not asked again.

    `key` sorts the items, so that a portion is the same whatever order they come in. `progress` counts items.
    """
    order = sorted(range(len(items)), key=lambda n: key(items[n]))
    done, found = set(place.steps()), [None] * len(items)
    for number, start in enumerate(range(0, len(order), PORTION)):
        members = order[start : start + PORTION]
        if number not in done:
            with place.save(number) as draft:
                (draft / "found.json").write_text(json.dumps(ask([items[n] for n in members])), encoding="utf-8")
        values = json.loads((place.place(number) / "found.json").read_text(encoding="utf-8"))
        for member, value in zip(members, values, strict=True):
            found[member] = value
        progress.advance(len(members))
    return found


def _encode(model: PreTrainedModel, prefixes: Sequence[Ids], cached: bool) -> Any:
    """Run the prefixes, left-padded to one length; the logits are those of the last token of each."""
    import torch

    width = max(map(len, prefixes))
    ids_BT = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prefixes], device=model.device)
    mask_BT = _left_mask(prefixes, width, model.device)
    position_BT = (mask_BT.cumsum(1) - 1).clamp_(min=0)
    mask = None if mask_BT.all() else mask_BT
    return model(ids_BT, attention_mask=mask, position_ids=position_BT, use_cache=cached, logits_to_keep=1)


def _left_mask(prefixes: Sequence[Ids], width: int, device: Any) -> torch.Tensor:
    import torch

    return torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prefixes], device=device)


def _score(model: PreTrainedModel, prefixes: list[Ids], continuations: list[Sequence[Ids]]) -> list[list[list[float]]]:
    """Return what `logprobs_of` does for one batch: one pass over the prefixes, one over what follows them."""
    import torch

    owner = [row for row, each in enumerate(continuations) for _ in each]
    tails = [list(tail) for each in continuations for tail in each]
    width = max(map(len, tails), default=0)
    if not width:
        return [[[] for _ in each] for each in continuations]
    with torch.inference_mode():
        out = _encode(model, prefixes, cached=width > 1)
        owner_N = torch.tensor(owner, device=model.device)
        tail_NK = torch.tensor([tail + [0] * (width - len(tail)) for tail in tails], device=model.device)
        logits_NKV = out.logits.float()[owner_N]
        if width > 1:
            logits_NKV = torch.cat([logits_NKV, _after(model, out.past_key_values, prefixes, owner_N, tail_NK)], 1)
        logprob_NK = logits_NKV.log_softmax(-1).gather(-1, tail_NK[..., None]).squeeze(-1).double().tolist()
    each = iter([row[: len(tail)] for row, tail in zip(logprob_NK, tails, strict=True)])
    return [[next(each) for _ in of_prefix] for of_prefix in continuations]


def _after(model: PreTrainedModel, cache: Any, prefixes: list[Ids], owner_N: torch.Tensor, tail_NK: torch.Tensor) -> torch.Tensor:
    """Return the logits [N, K-1, V] that predict all but the first token of each continuation."""
    import torch

    from tasks.runtime.cache import spread

    steps = tail_NK.shape[1] - 1
    spread(cache, owner_N, steps)
    mask_BT = _left_mask(prefixes, max(map(len, prefixes)), model.device)[owner_N]
    position_N1 = mask_BT.sum(1, keepdim=True)
    mask = torch.cat([mask_BT, mask_BT.new_ones(len(mask_BT), steps)], 1)
    positions_NK = position_N1 + torch.arange(steps, device=model.device)
    logits_NKV: torch.Tensor = model(
        tail_NK[:, :-1], attention_mask=mask, position_ids=positions_NK, past_key_values=cache, use_cache=True
    ).logits
    return logits_NKV.float()


def _check(model: PreTrainedModel, prefixes: Sequence[Ids], continuations: Sequence[Sequence[Ids]]) -> None:
    most = model.config.get_text_config().max_position_embeddings
    for number, (prefix, tails) in enumerate(zip(prefixes, continuations, strict=True)):
        if not prefix:
            raise UserError(f"prompt {number} has no token, so nothing can follow it; give it a text")
        if (length := len(prefix) + max(map(len, tails), default=0)) > most:
            raise UserError(f"prompt {number} and what follows it have {length} tokens; the model takes {most}; shorten it")
