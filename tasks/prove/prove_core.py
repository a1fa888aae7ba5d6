"""Stage `prove-core`: provers try the real statements that core Lean can state; a figure of that subset, never a miniF2F score.

The rounds are those of `prove`; only the statements, and the letters that Lean reads them with, are others.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tasks.prove.checker import LETTERS, CheckerSettings
from tasks.prove.writing import WritingParams, write_all
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(WritingParams):
    """Rounds of proof writing on real statements."""

    section: ClassVar[str] = "prove-core"
    splits: list[str] = Field(default=["valid", "test"], min_length=1)
    """Splits whose statements are to be proved."""
    checker: CheckerSettings = CheckerSettings(header=LETTERS)
    """The Lean that checks, with Mathlib's letters for core Lean's types."""


def main(params: Params, run: Run, *, provers: In, examples: In, theorems: In, out: Out, scores: Out) -> None:
    """Prove the statements of the file `theorems` by every prover in `provers`, with examples from the file `examples`."""
    write_all(params, run, provers=provers, examples=examples, theorems=theorems, out=out, scores=scores)


if __name__ == "__main__":
    run_stage(main)
