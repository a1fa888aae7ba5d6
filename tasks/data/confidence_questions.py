"""The questions of SaySelf: read once each, with their right answers, and parted into what is learned and what is tested.

A question comes with its answer, or with the distribution that its answer is drawn from.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from tasks.data.atlas import stream
from tasks.runtime.confidence import Question, normalise
from tasks.runtime.params import UserError
from tasks.runtime.records import Record, read_records

SPLITS = ("sft", "rl", "valid", "test")
"""What is learned in stage 1, what in stage 2, what chooses a checkpoint, and what measures it."""


class Source(Record):
    """A question as it comes: with its answer, or with the distribution of its answers."""

    prompt: str = Field(min_length=1)
    completion: str | None = None
    answers: list[str] | None = None
    probabilities: list[float] | None = None
    entity: str | None = None
    """Whom it is about; all questions about one entity fall on the same side of a split."""

    @model_validator(mode="after")
    def _answered(self) -> Source:
        if not self.completion and not (self.answers and self.probabilities and len(self.answers) == len(self.probabilities)):
            raise ValueError("needs completion, or answers with as many probabilities")
        return self


def read_questions(files: Sequence[Path], draws: int, seed: int) -> tuple[list[Question], int]:
    """Return every question once, and how many came again; `draws` right answers of one with a distribution."""
    found: dict[str, Question] = {}
    count = 0
    for path in files:
        rng = stream(seed, f"confidence draws {path.stem}")
        for number, row in enumerate(read_records(path, Source)):
            count += 1
            found.setdefault(normalise(row.prompt), _question(row, f"{path.stem}-{number}", path.stem, draws, rng))
    return list(found.values()), count - len(found)


def _question(row: Source, qid: str, source: str, draws: int, rng: random.Random) -> Question:
    golds, chances = [row.completion or ""], None
    if not row.completion:
        answers, shares = row.answers or [], row.probabilities or []
        golds = rng.choices(answers, shares, k=draws)
        chances = dict(zip(map(normalise, answers), shares, strict=True))
    group = row.entity or row.prompt
    return Question(qid=qid, prompt=row.prompt, answers=golds, source=source, group=group, chances=chances)


def split(asked: Sequence[Question], shares: Sequence[float], seed: int) -> dict[str, list[Question]]:
    """Return the questions of each split: whole groups, each source in proportion. Raises UserError when a split is empty."""
    parts: dict[str, list[Question]] = {name: [] for name in SPLITS}
    for source in dict.fromkeys(question.source for question in asked):
        mine = [question for question in asked if question.source == source]
        groups = list(dict.fromkeys(question.group for question in mine))
        stream(seed, f"confidence split {source}").shuffle(groups)
        ends = [round(len(groups) * sum(shares[: number + 1])) for number in range(len(SPLITS))]
        for name, start, end in zip(SPLITS, [0, *ends], ends, strict=False):
            chosen = set(groups[start:end])
            parts[name] += [question for question in mine if question.group in chosen]
    if empty := [name for name, part in parts.items() if not part]:
        raise UserError(f"confidence-data.parts: no question is left for {', '.join(empty)}; give more questions or other shares")
    return parts
