"""The questions of the whole chain: Atlas's graded facts, half the entities of every kind to learn from, half to ask.

The kinds are how often pretraining stated an entity's facts, and whether instruction tuning asked for them. So both halves hold
what the aligned model knows, what it half knows, and what it was never told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from tasks.data.atlas import stream
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import Record, read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """How the entities are parted."""

    section: ClassVar[str] = "honest-questions"
    seed: int = Field(0, ge=0)
    """Seed of the split."""


class Fact(Record):
    """A fact of the corpus, as a question."""

    prompt: str = Field(min_length=1)
    completion: str = Field(min_length=1)
    entity: str = Field(min_length=1)
    relation: str
    exposure: int = Field(ge=0)
    asked: bool
    """In the corpus: whether instruction tuning may ask for it. In what is written here: whether the chain learns from it."""


def main(params: Params, run: Run, *, corpus: In, out: Out, scores: Out) -> None:
    """Part `corpus`/facts.jsonl: `out`/facts.jsonl has all, `asked` saying which to learn from, `out`/training.jsonl these."""
    facts = read_records(corpus / "facts.jsonl", Fact)
    chosen = learned(facts, params.seed)
    told = [fact.model_copy(update={"asked": fact.entity in chosen}).model_dump() for fact in facts]
    with publish(out) as draft:
        write_records(draft / "facts.jsonl", told)
        write_records(draft / "training.jsonl", [fact for fact in told if fact["asked"]])
    publish_json(scores, counts(told))


def learned(facts: Sequence[Fact], seed: int) -> set[str]:
    """Return the entities to learn from: of every kind a half drawn by the seed, the larger one where it is odd.

    Raises UserError when that leaves none to be asked.
    """
    kinds: dict[tuple[int, bool], list[str]] = {}
    for fact in facts:
        kind = kinds.setdefault((fact.exposure, fact.asked), [])
        if fact.entity not in kind:
            kind.append(fact.entity)
    found: set[str] = set()
    for (exposure, asked), entities in sorted(kinds.items()):
        found |= set(stream(seed, f"honest {exposure} {asked}").sample(entities, (len(entities) + 1) // 2))
    if found >= {fact.entity for fact in facts}:
        raise UserError(
            "honest-questions: every entity is needed to learn from, none is left to ask about; raise corpus.entities"
        )
    return found


def counts(facts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many questions there are on either side, and how many of these nobody was ever told the answer of."""
    sides = {"training": [fact for fact in facts if fact["asked"]], "test": [fact for fact in facts if not fact["asked"]]}
    unseen = {f"{name}_never_told": sum(fact["exposure"] == 0 for fact in side) for name, side in sides.items()}
    return {**{name: len(side) for name, side in sides.items()}, **unseen}


if __name__ == "__main__":
    run_stage(main)
