"""How a prover is asked: examples chosen anew for every batch, a temperature drawn for it, and the proofs that come back.

Every choice for a batch hangs on the seed, the round, the theorem's name and the batch alone, and the noise is counter-based:
so a proof is the same whatever else is sampled beside it, and after any interruption.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from tasks.runtime.generate import Shaping, generate_ids
from tasks.runtime.models import derive, load_causal, on_device
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.theorem_prompt import LAYOUT_FILE, Encoded, Layout, Posed, Renderer, load_layout, steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SamplingParams(StageParams):
    """How proofs are sampled."""

    seed: int = Field(0, ge=0)
    """Seed of examples, temperatures and samples."""
    threads: int = Field(2, ge=1, le=64)
    """CPU threads of sampling."""
    samples: int = Field(8, ge=1, le=100_000)
    """Proofs of each theorem in a round."""
    batch: int = Field(4, ge=1, le=1024)
    """Proofs that share their examples and temperature; the last batch of a theorem has what is left."""
    examples: int = Field(16, ge=0, le=64)
    """Most examples in a prompt; as many as leave room for the proof."""
    context: int = Field(512, ge=32, le=1_048_576)
    """Most tokens of a prompt with its proof."""
    max_new_tokens: int = Field(160, ge=4, le=32_768)
    """Most tokens of a proof."""
    temperature_low: float = Field(0.6, gt=0, le=5)
    """Lowest temperature of a batch."""
    temperature_high: float = Field(0.9, gt=0, le=5)
    """Highest temperature of a batch; drawn evenly between the two."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Nucleus that proofs are drawn from."""
    repetition_penalty: float = Field(1.0, ge=1, le=2)
    """1 is none. The released decoding has 1.1, which a small model pays for: a proof must repeat its statement's names."""
    generate_batch: int = Field(64, ge=1, le=4096)
    """Proofs sampled at once."""
    layout: Layout | None = None
    """How theorems are put; null takes the one that the prover was trained with."""


@dataclass(frozen=True)
class Batch:
    """What the proofs of one batch share."""

    examples: list[str]
    """Names of the theorems shown."""
    temperature: float
    prompt: list[int]
    count: int
    """Proofs to draw."""


@dataclass(frozen=True)
class Sample:
    """One proof as it came."""

    proof: str
    """What follows the statement."""
    temperature: float
    examples: list[str]
    whole: bool
    """Whether the prover ended it; else it was cut at `max_new_tokens`."""


class Prover:
    """A model that is asked for proofs."""

    def __init__(self, folder: Path, params: SamplingParams) -> None:
        """Load the model. Raises UserError for an unusable folder, or params that do not go with it."""
        self.params = params
        if params.temperature_low > params.temperature_high:
            raise UserError(
                f"{params.section}.temperature_low: {params.temperature_low} is above temperature_high: "
                f"{params.temperature_high}; swap them"
            )
        model, self.tokenizer = load_causal(folder)
        self.model: PreTrainedModel = on_device(model)
        self.renderer = Renderer(self.tokenizer, params.layout or _layout(folder, params.section))
        _stop_at(self.model, self.renderer.end)

    def encode(self, pool: Sequence[Posed]) -> list[Encoded]:
        """Return the theorems of a pool as examples."""
        return self.renderer.encode(pool)

    def sample(
        self, theorems: Sequence[tuple[int, Posed]], pool: Sequence[Posed], encoded: Sequence[Encoded], round_: int
    ) -> list[list[Sample]]:
        """Return the proofs of each theorem in one round; a theorem comes with its number among all.

        Raises UserError for a theorem that leaves no room for a proof.
        """
        questions = self.renderer.questions([theorem for _, theorem in theorems])
        asked = [
            batches(theorem, question, pool, encoded, self.renderer, self.params, round_)
            for (_, theorem), question in zip(theorems, questions, strict=True)
        ]
        flat = [(number, place, batch) for (number, _), of in zip(theorems, asked, strict=True) for place, batch in enumerate(of)]
        most = -(-self.params.samples // self.params.batch)
        drawn = generate_ids(
            self.model,
            self.tokenizer,
            [batch.prompt for *_, batch in flat],
            max_new_tokens=self.params.max_new_tokens,
            temperature=[batch.temperature for *_, batch in flat],
            samples=min(self.params.batch, self.params.samples),
            seed=derive(self.params.seed, round_),
            batch_size=self.params.generate_batch,
            numbers=[number * most + place for number, place, _ in flat],
            shaping=Shaping(self.params.top_p, self.params.repetition_penalty),
        )
        found: dict[int, list[Sample]] = {number: [] for number, _ in theorems}
        statements = {number: theorem.Statement for number, theorem in theorems}
        for (number, _, batch), of_batch in zip(flat, drawn, strict=True):
            for one in of_batch[: batch.count]:
                text = str(self.tokenizer.decode(one.ids, skip_special_tokens=True))
                proof = self.renderer.layout.proof(statements[number], text)
                found[number].append(Sample(proof, batch.temperature, batch.examples, one.stop is not None))
        return [found[number] for number, _ in theorems]


def batches(
    theorem: Posed,
    question: Sequence[int],
    pool: Sequence[Posed],
    encoded: Sequence[Encoded],
    renderer: Renderer,
    params: SamplingParams,
    round_: int,
) -> list[Batch]:
    """Return the batches of a theorem in one round: `samples` proofs in all, each batch with its own examples and temperature.

    The theorem itself is never an example, by its name or by what it states.
    """
    allowed = [number for number, one in enumerate(pool) if one.Name != theorem.Name and one.proposition != theorem.proposition]
    found = []
    for place, start in enumerate(range(0, params.samples, params.batch)):
        draw = random.Random(f"{params.seed}/{round_}/{theorem.Name}/{place}")
        temperature = draw.uniform(params.temperature_low, params.temperature_high)
        chosen = _fitting(draw.sample(allowed, len(allowed)), question, encoded, renderer, params, theorem.Name)
        chosen.sort(key=lambda number: steps(pool[number]))  # easy first, as in training
        prompt = renderer.prompt([encoded[number] for number in chosen], question)
        names = [pool[number].Name for number in chosen]
        found.append(Batch(names, temperature, prompt, min(params.batch, params.samples - start)))
    return found


def _fitting(
    numbers: Sequence[int],
    question: Sequence[int],
    encoded: Sequence[Encoded],
    renderer: Renderer,
    params: SamplingParams,
    name: str,
) -> list[int]:
    """Return the first of `numbers` that fit into the context, at most `examples`; those too long are passed over."""
    room = params.context - params.max_new_tokens - len(renderer.prompt([], question))
    if room < 0:
        raise UserError(
            f"theorem {name}: its prompt and {params.max_new_tokens} new tokens are {-room} more than "
            f"{params.section}.context: {params.context}; raise it"
        )
    chosen: list[int] = []
    for number in numbers:
        size = len(renderer.example(encoded[number]))
        if len(chosen) < params.examples and size <= room:
            chosen.append(number)
            room -= size
    return chosen


def _layout(folder: Path, section: str) -> Layout:
    if not (folder / LAYOUT_FILE).is_file():
        raise UserError(f"{folder}: holds no {LAYOUT_FILE}, as a prover of the stage prover does; set {section}.layout")
    return load_layout(folder)


def _stop_at(model: PreTrainedModel, end: int) -> None:
    """Have generation also stop at the token that ends a proof."""
    named = model.generation_config.eos_token_id
    known = named if isinstance(named, list) else [] if named is None else [named]
    model.generation_config.eos_token_id = sorted({*known, end})
