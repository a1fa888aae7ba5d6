"""The prompt formats of R-Tuning (Zhang et al. 2024, appendix), one function each, with named fields and no positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

VERDICTS = {"SUPPORTS": "A", "REFUTES": "B", "NOT ENOUGH INFO": "C"}
"""Letter of each label of an evidence set."""
LETTERS = "ABCDEFGHIJ"


class Choice(NamedTuple):
    """A question with options, and the letter of the right one."""

    question: str
    options: Mapping[str, str]
    """Text by letter."""
    letter: str


def open_question(question: str) -> str:
    """Return the prompt of a question with a free answer."""
    return f"Question: {question} Answer:"


def choice(asked: Choice, shots: Sequence[Choice] = (), subject: str = "") -> str:
    """Return the prompt of a multiple-choice question, after `shots` answered ones, in the format of MMLU."""
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n" if subject else ""
    solved = "".join(f"{_options(shot)} {shot.letter}\n\n" for shot in shots)
    return head + solved + _options(asked)


def evidence(text: str, claim: str) -> str:
    """Return the prompt of a claim that evidence supports, refutes, or leaves open (FEVER, WiCE)."""
    options = "\n".join(f"{letter}: {label}." for label, letter in VERDICTS.items())
    return f"Evidence:{text}\nClaim:{claim}\nQuestion:Does the evidence support the claim?\n{options}\nAnswer:"


def reading(paragraphs: Sequence[str], question: str) -> str:
    """Return the prompt of a question about paragraphs (HotpotQA)."""
    return "\n".join(paragraphs) + f"\nQuestion: {question} \nAnswer:"


def _options(asked: Choice) -> str:
    return asked.question + "".join(f"\n{letter}. {text}" for letter, text in asked.options.items()) + "\nAnswer:"
