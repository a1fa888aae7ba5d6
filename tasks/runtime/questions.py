"""Questions with known answers: one record for every source, rendered into its prompt once, where it is read.

Identification, training and evaluation all take `prompt` from the record, so they cannot differ by as much as a space.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from tasks.runtime.params import UserError
from tasks.runtime.records import Record, read_records

UNNAMED = "all"
"""The set of a question whose source names none."""


class Question(Record):
    """One question of a set."""

    id: str = Field(min_length=1)
    """Its own within a file."""
    prompt: str = Field(min_length=1)
    """The question as a model is asked it, in the format of its source."""
    answers: list[str]
    """What counts as right, the one to be taught first; of a choice question its letter. Empty: nobody can answer it."""
    choices: list[str] = Field(default_factory=list)
    """Letters to choose from; none where the answer is free text."""
    set: str = UNNAMED
    """Which set it belongs to: its source, and whether it is of the domains of training (`in`) or not (`out`)."""
    subject: str = ""
    """Relation, field or topic."""
    exposure: int | None = None
    """How often pretraining stated the fact, where that is known."""
    training: bool | None = None
    """Whether it is for training, where its source says so."""

    @model_validator(mode="after")
    def _answers_are_choices(self) -> Question:
        if self.choices and (wrong := [answer for answer in self.answers if answer not in self.choices]):
            raise ValueError(f"answer {wrong[0]!r} is not one of the choices {', '.join(self.choices)}")
        if any(not answer.strip() for answer in self.answers):
            raise ValueError("an answer is empty; leave `answers` empty where there is none")
        return self

    @property
    def stream(self) -> int:
        """Number of the random stream of its samples: its own whatever stands before it in a file."""
        return int.from_bytes(hashlib.sha256(self.id.encode()).digest()[:6], "big")


def read_questions(path: Path) -> list[Question]:
    """Read the questions of a file. Raises UserError for a bad record, and when two have one id."""
    questions = read_records(path, Question)
    check_ids(questions, str(path))
    return questions


def check_ids(questions: Sequence[Question], source: str) -> None:
    """Raise UserError unless every question has an id of its own."""
    twice = [name for name, count in Counter(question.id for question in questions).items() if count > 1]
    if twice:
        raise UserError(f"{source}: {len(twice)} ids occur more than once, {twice[0]!r} first; give every question its own")


def is_right(question: Question, answer: str) -> bool:
    """Whether an answer is right: the letter itself for a choice, else one of `answers` occurs in it, as whole words.

    Case and the width of white space do not count (R-Tuning's identification looks for the gold string in the output).
    """
    if question.choices:
        return answer in question.answers
    given = normal(answer)
    return any(re.search(rf"(?<!\w){re.escape(normal(right))}(?!\w)", given) is not None for right in question.answers)


def normal(text: str) -> str:
    """Return a text in small letters, without a full stop at its end, words parted by one space."""
    return " ".join(text.lower().split()).rstrip(". ")
