"""Questions about the noisy facts, each answered by a draw from its context's distribution: what a teacher is tuned on.

Training and validation are disjoint draws. No test set is drawn: the distributions are known, so a student is measured against
them exactly.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tasks.data.atlas import stream
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import Record, read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """How many draws of each context."""

    section: ClassVar[str] = "distill-data"
    seed: int = Field(0, ge=0)
    """Seed of the draws."""
    training: int = Field(24, ge=1, le=10_000)
    """Answers for each context in `sft.jsonl`."""
    validation: int = Field(12, ge=1, le=10_000)
    """Answers for each context in `valid.jsonl`."""


class Context(Record):
    """A question whose answers have a known distribution."""

    prompt: str = Field(min_length=1)
    answers: list[str] = Field(min_length=2)
    probabilities: list[float] = Field(min_length=2)


def main(params: Params, run: Run, *, corpus: In, out: Out, scores: Out) -> None:
    """Draw `out`/sft.jsonl and `out`/valid.jsonl from the contexts in `corpus`/noisy.jsonl."""
    contexts = read_records(corpus / "noisy.jsonl", Context)
    counts = {}
    with publish(out) as draft:
        for name, draws in (("sft", params.training), ("valid", params.validation)):
            rng = stream(params.seed, f"noisy questions {name}")
            rows = [
                {"prompt": context.prompt, "completion": answer, "id": f"{name}-{number}-{draw}"}
                for number, context in enumerate(contexts)
                for draw, answer in enumerate(rng.choices(context.answers, context.probabilities, k=draws))
            ]
            rng.shuffle(rows)
            counts[name] = write_records(draft / f"{name}.jsonl", rows)
    publish_json(scores, {"contexts": len(contexts), **counts})


if __name__ == "__main__":
    run_stage(main)
