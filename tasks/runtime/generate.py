"""Batched sampling with a key-value cache: what RAFT, the preference pairs and every evaluation spend their time on.

`model.generate` draws all rows of a batch from one random stream, so its texts change with the batch. Here each (prompt, sample)
has a stream of its own, rows are grouped by length, a prompt is encoded once for all its samples, and finished rows leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING

from tasks.runtime.models import encode_prompt
from tasks.runtime.params import UserError
from tasks.runtime.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

COMPACT_BELOW = 0.8
"""Finished rows are dropped once this share of a batch is left: dropping copies the cache, keeping them computes for nothing."""


@dataclass(frozen=True)
class Row:
    """One completion to be drawn."""

    prompt: int
    """Index of its prompt."""
    sample: int
    """Which of the samples of that prompt."""


@dataclass(frozen=True)
class Drawn:
    """One completion as it was drawn."""

    ids: list[int]
    """Its token ids, the stop token left out."""
    stop: int | None
    """The stop token that ended it; None when it was cut at `max_new_tokens`."""
    logprobs: list[float] = field(default_factory=list)
    """Log-probability of each of `ids` in nats, given the prompt and those before it; none where they were not asked for."""

    @property
    def actions(self) -> list[int]:
        """Every token that the policy chose, the stop token included."""
        return self.ids if self.stop is None else [*self.ids, self.stop]


@dataclass(frozen=True)
class Shaping:
    """How the distribution of the next token is shaped, beside its temperature."""

    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability may be drawn (Holtzman et al., 2020); 1 leaves all."""
    repetition_penalty: float = 1.0
    """Logits of tokens of the prompt and of the text so far are divided by it, negative ones multiplied (CTRL); 1 is none."""
    forbidden: frozenset[int] = frozenset()
    """Tokens that no completion begins with."""


PLAIN = Shaping()
"""The model's own distribution."""


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    samples: int = 1,
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
) -> list[list[str]]:
    """Return `samples` completions of every prompt, without special tokens; `temperature` 0 takes the likeliest token.

    Sample k of prompt i depends on the model, the prompt, `seed`, i and k alone: not on `batch_size`, on the other prompts, or on
    how many samples are drawn. Guaranteed bit for bit at one `batch_size` and number of threads; across batch sizes the
    logits of a row agree to rounding (about 1e-6), so a text can differ only where two tokens are that close.
    `progress` counts completions. Puts the model in eval mode. Raises UserError for a prompt that leaves no room in the context.
    """
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    drawn = generate_ids(
        model,
        tokenizer,
        encoded,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    return [tokenizer.batch_decode([one.ids for one in of_prompt], skip_special_tokens=True) for of_prompt in drawn]


def generate_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float | Sequence[float],
    samples: int = 1,
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
    numbers: Sequence[int] | None = None,
    shaping: Shaping = PLAIN,
    scored: bool = False,
) -> list[list[Drawn]]:
    """Return, for prompts given as token ids, the token ids that `generate` decodes: what was drawn, not what its text reads as.

    `numbers` are the numbers of the prompts in a longer list of which these are a share; their samples are then drawn as there.
    `temperature` may be one for each prompt, all above 0.
    `scored` asks for the log-probabilities of what is drawn, by the model as it is: at temperature 1, unshaped.
    """
    import torch

    _check_context(model, encoded, max_new_tokens)
    numbers = range(len(encoded)) if numbers is None else numbers
    rows = [Row(prompt, sample) for prompt in range(len(encoded)) for sample in range(samples)]
    rows.sort(key=lambda row: (len(encoded[row.prompt]), row.prompt, row.sample))
    stop = _stop_ids(model, tokenizer)
    model.eval()
    found: list[list[Drawn]] = [[Drawn([], None)] * samples for _ in encoded]
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        streams = [Row(numbers[row.prompt], row.sample) for row in batch]
        noise = uniforms(seed, streams, max_new_tokens) if temperature else None
        heat_B = torch.tensor([_of(temperature, row.prompt) for row in batch], dtype=torch.float64, device=model.device)
        prompts = [encoded[row.prompt] for row in batch]
        completions = _complete(model, prompts, max_new_tokens, heat_B, noise, stop, shaping, scored)
        for row, completion in zip(batch, completions, strict=True):
            found[row.prompt][row.sample] = completion
        if progress:
            progress.advance(len(batch))
    return found


def uniforms(seed: int, rows: Sequence[Row], steps: int) -> torch.Tensor:
    """Return float64 noise in [0, 1), shape (rows, steps): row by row a counter-based stream named by seed, prompt and sample."""
    import numpy
    import torch

    streams = (numpy.random.Philox(key=seed, counter=[0, 0, row.sample, row.prompt]) for row in rows)
    return torch.from_numpy(numpy.stack([numpy.random.Generator(stream).random(steps) for stream in streams]))


def _of(temperature: float | Sequence[float], prompt: int) -> float:
    return temperature if isinstance(temperature, int | float) else temperature[prompt]


def draw(
    logits_BV: torch.Tensor, temperature: float | torch.Tensor, noise_B: torch.Tensor | None, top_p: float = 1.0
) -> torch.Tensor:
    """Return one token a row: the likeliest without noise, else the inverse of the cumulative distribution at the row's noise.

    `temperature` may be one for each row, shape (rows, 1); `top_p` leaves the nucleus only. Among equally likely tokens the
    lowest id wins. Sums run in float64, so that a draw moves only with its logits.
    """
    import torch

    if noise_B is None:
        return logits_BV.argmax(-1)
    probability_BV = torch.softmax(logits_BV.double() / temperature, -1)
    cumulative_BV = (probability_BV if top_p >= 1 else nucleus(probability_BV, top_p)).cumsum(-1)
    target_B1 = (noise_B.to(logits_BV.device) * cumulative_BV[:, -1])[:, None]
    return torch.searchsorted(cumulative_BV, target_B1, right=True).squeeze(1).clamp_(max=logits_BV.shape[1] - 1)


def penalised(logits_BV: torch.Tensor, seen_BV: torch.Tensor, penalty: float) -> torch.Tensor:
    """Return logits in which the tokens of `seen_BV` (bool) are less likely, as Keskar et al. (2019), section 4.1, have it."""
    import torch

    return torch.where(seen_BV, torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty), logits_BV)


def nucleus(probability_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return probabilities with zero for every token outside the nucleus: the fewest likeliest ones that reach `top_p`.

    Not normalised again. The likeliest token always stays; among equally likely ones the lowest id comes first.
    """
    import torch

    sorted_BV, order_BV = probability_BV.sort(stable=True, dim=-1, descending=True)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    kept_BV = torch.where(before_BV < top_p, sorted_BV, 0.0)
    return torch.zeros_like(probability_BV).scatter(-1, order_BV, kept_BV)


def seen_in(prompts: list[list[int]], vocabulary: int, device: torch.device) -> torch.Tensor:
    """Return which tokens of the vocabulary stand in each prompt, bool [prompts, vocabulary]."""
    import torch

    seen_PV = torch.zeros(len(prompts), vocabulary, dtype=torch.bool, device=device)
    for row, ids in enumerate(prompts):
        seen_PV[row, ids] = True
    return seen_PV


def _complete(
    model: PreTrainedModel,
    prompts: list[list[int]],
    steps: int,
    heat_B: torch.Tensor,
    noise_BS: torch.Tensor | None,
    stop: torch.Tensor,
    shaping: Shaping,
    scored: bool,
) -> list[Drawn]:
    """Return the new tokens of each row; equal prompts standing together are encoded once."""
    import torch

    drawn = [Drawn([], None) for _ in prompts]
    stops: dict[int, int] = {}
    with torch.inference_mode():
        batch = _Batch(model, prompts, steps, shaping.repetition_penalty)
        for step in range(steps):
            noise_B = None if noise_BS is None else noise_BS[batch.rows, step]
            logits_BV = _without(batch.shaped(), shaping.forbidden) if shaping.forbidden and step == 0 else batch.shaped()
            token_B = draw(logits_BV, heat_B[batch.rows, None], noise_B, shaping.top_p)
            logprob_B = _logprob(batch.logits_BV, token_B) if scored else None
            going_B = ~torch.isin(token_B, stop) & batch.going_B
            for place, (row, token, going) in enumerate(zip(batch.rows, token_B.tolist(), going_B.tolist(), strict=True)):
                if going:
                    drawn[row].ids.append(token)
                    if logprob_B is not None:
                        drawn[row].logprobs.append(logprob_B[place])
                else:
                    stops.setdefault(row, token)  # later tokens of a finished row mean nothing
            batch.going_B = going_B
            if step == steps - 1 or not going_B.any():
                break
            batch.advance(token_B)
    return [replace(one, stop=stops.get(row)) for row, one in enumerate(drawn)]


def _without(logits_BV: torch.Tensor, forbidden: frozenset[int]) -> torch.Tensor:
    """Return the logits with those of the forbidden tokens out of reach."""
    import torch

    return logits_BV.index_fill(1, torch.tensor(sorted(forbidden), device=logits_BV.device), -torch.inf)


def _logprob(logits_BV: torch.Tensor, token_B: torch.Tensor) -> list[float]:
    """Return the log-probability of one token a row, in nats."""
    chosen: list[float] = logits_BV.float().log_softmax(-1).gather(1, token_B[:, None]).squeeze(1).double().tolist()
    return chosen


class _Batch:
    """The rows being continued: their cache, the logits of their next token, and which of them have not met a stop token."""

    def __init__(self, model: PreTrainedModel, prompts: list[list[int]], steps: int, penalty: float) -> None:
        """Encode the prompts, left-padded to one length, each run of equal ones once; leave room for `steps` more tokens."""
        import torch

        from tasks.runtime.cache import spread

        runs = [(ids, len(list(equal))) for ids, equal in groupby(prompts)]
        width = max(len(ids) for ids, _ in runs)
        ids_PT = torch.tensor([[0] * (width - len(ids)) + ids for ids, _ in runs], device=model.device)
        mask_PT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids, _ in runs], device=model.device)
        self.model = model
        self.padded = not mask_PT.all()
        out = model(
            ids_PT,
            attention_mask=mask_PT if self.padded else None,
            position_ids=(mask_PT.cumsum(1) - 1).clamp_(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        owner = torch.repeat_interleave(torch.tensor([count for _, count in runs], device=model.device))
        self.cache: Cache = out.past_key_values
        spread(self.cache, owner, steps)
        self.logits_BV: torch.Tensor = out.logits[owner, -1]
        self.mask_BT = mask_PT[owner]
        self.position_B = self.mask_BT.sum(1)
        self.going_B = torch.ones(len(prompts), dtype=torch.bool, device=model.device)
        self.rows = list(range(len(prompts)))
        self.penalty = penalty
        if penalty != 1:
            self.seen_BV = seen_in([ids for ids, _ in runs], self.logits_BV.shape[1], model.device)[owner]

    def shaped(self) -> torch.Tensor:
        """Return the logits of the next token, those of tokens that have been said lowered by the penalty."""
        return self.logits_BV if self.penalty == 1 else penalised(self.logits_BV, self.seen_BV, self.penalty)

    def advance(self, token_B: torch.Tensor) -> None:
        """Feed one token to every row, after dropping the finished rows if they are many."""
        import torch

        if self.going_B.float().mean() < COMPACT_BELOW:
            token_B = self._drop_finished(token_B)
        if self.penalty != 1:
            self.seen_BV[range(len(token_B)), token_B] = True
        self.mask_BT = torch.cat([self.mask_BT, self.mask_BT.new_ones(len(self.rows), 1)], 1)
        out = self.model(
            token_B[:, None],
            attention_mask=self.mask_BT if self.padded else None,
            position_ids=self.position_B[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.logits_BV = out.logits[:, -1]
        self.position_B = self.position_B + 1

    def _drop_finished(self, token_B: torch.Tensor) -> torch.Tensor:
        from tasks.runtime.cache import select

        keep = self.going_B.nonzero().squeeze(1)
        select(self.cache, keep)
        self.rows = [self.rows[index] for index in keep.tolist()]
        self.mask_BT, self.position_B, self.going_B = self.mask_BT[keep], self.position_B[keep], self.going_B[keep]
        if self.penalty != 1:
            self.seen_BV = self.seen_BV[keep]
        return token_B[keep]


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Return the ids that end a completion: the tokenizer's end of sequence, and those the model's generation config names."""
    import torch

    named = model.generation_config.eos_token_id
    extra = named if isinstance(named, list) else [named] if named is not None else []
    return torch.tensor(sorted({tokenizer.eos_token_id, *extra}), device=model.device)


def _check_context(model: PreTrainedModel, encoded: Sequence[list[int]], max_new_tokens: int) -> None:
    context = model.config.get_text_config().max_position_embeddings
    for index, ids in enumerate(encoded):
        if len(ids) + max_new_tokens > context:
            raise UserError(
                f"prompt {index} has {len(ids)} tokens, and {max_new_tokens} new ones exceed the model's context of {context}; "
                "shorten the prompt or lower max_new_tokens"
            )
