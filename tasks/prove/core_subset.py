"""Which of somebody else's statements this Lean can state at all, and which of those a tactic proves alone.

miniF2F is written for Mathlib. Part of it is about natural numbers and integers only and means the same in core Lean, given
Mathlib's letters for them; the checker finds that part, nobody picks it. What is proved of it is a figure of this subset and this
backend, never a miniF2F score. What elaborates is written out for provers, what does not with Lean's own message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tasks.prove.checker import LETTERS, Candidate, Checker, CheckerSettings, Verdict, open_checker
from tasks.runtime.params import StageParams
from tasks.runtime.progress import Progress
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import Record, read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """How statements are looked through."""

    section: ClassVar[str] = "core-subset"
    checker: CheckerSettings = CheckerSettings(header=LETTERS)
    """The Lean that says what can be stated; its header stands for that of the statements."""
    tactics: list[Annotated[str, Field(min_length=1)]] = Field(
        default=["rfl", "decide", "omega", "simp", "simp_all", "grind"], min_length=1
    )
    """Tactics tried alone on every statement that can be stated, in order, until one proves it."""


class Formal(Record):
    """A statement of miniF2F, as DeepSeek-Prover gives it out."""

    name: str = Field(min_length=1)
    split: str
    formal_statement: str
    """From `theorem` to `:= by`."""
    informal_prefix: str = ""
    """The problem in words, as a documentation comment."""
    goal: str = ""
    header: str = ""


class Stated(Record):
    """A statement that core Lean can state."""

    Name: str
    split: str
    Statement: str
    """From `theorem` to `:=`."""
    Informal_statement: str
    proved_by: str | None
    """The tactic that proves it alone, if one does."""


def main(params: Params, run: Run, *, statements: In, out: Out, scores: Out) -> None:
    """Write what can be stated of `statements`, and what cannot with Lean's message, into `out`, and the counts to `scores`."""
    rows = read_records(statements, Formal)
    progress = run.progress(len(rows), "statements", "stating and proving")
    with open_checker(params.checker) as checker:
        found = [tried(checker, row, params.tactics, progress) for row in rows]
    stated = [_stated(row, *answer) for row, answer in zip(rows, found, strict=True) if answer[1].reason not in _NOT_STATED]
    refused = [
        {"Name": row.name, "split": row.split, "reason": verdict.reason, "detail": verdict.detail}
        for row, (_, verdict) in zip(rows, found, strict=True)
        if verdict.reason in _NOT_STATED
    ]
    with publish(out) as draft:
        write_records(draft / "stated.jsonl", stated)
        write_records(draft / "refused.jsonl", refused)
    publish_json(scores, describe(rows, stated, refused, found[0][1] if found else None))


_NOT_STATED = ("unsupported", "malformed", "crashed")


def statement(row: Formal) -> str:
    """Return the statement up to its `:=`: that a proof by tactics follows is the prover's choice."""
    return row.formal_statement.rstrip().removesuffix("by").rstrip()


def tried(checker: Checker, row: Formal, tactics: Sequence[str], progress: Progress) -> tuple[str | None, Verdict]:
    """Return the first tactic that proves a statement, if any, and the last verdict, which tells whether it can be stated."""
    verdict: Verdict | None = None
    for tactic in tactics:
        [verdict] = checker.check([Candidate(row.name, statement(row), f"{statement(row)} by {tactic}")])
        if verdict.verified or verdict.reason in _NOT_STATED:
            break
    assert verdict, "there is at least one tactic"
    progress.advance(1)
    return (tactic if verdict.verified else None), verdict


def describe(
    rows: Sequence[Formal], stated: Sequence[Stated], refused: Sequence[dict[str, Any]], verdict: Verdict | None
) -> dict[str, Any]:
    """Return the counts by split and tactic, the reasons of what cannot be stated, and which Lean this is a subset for."""
    return {
        "subset": "what elaborates in core Lean without Mathlib; not a miniF2F score",
        "backend": verdict.backend if verdict else "",
        "toolchain": verdict.toolchain if verdict else "",
        "statements": dict(Counter(row.split for row in rows)),
        "stated": dict(Counter(row.split for row in stated)),
        "proved": dict(Counter(row.split for row in stated if row.proved_by)),
        "by_tactic": dict(Counter(row.proved_by for row in stated if row.proved_by)),
        "refused": dict(Counter(row["reason"] for row in refused)),
    }


def _stated(row: Formal, tactic: str | None, verdict: Verdict) -> Stated:
    words = row.informal_prefix.strip().removeprefix("/--").removesuffix("-/").strip()
    return Stated(Name=row.name, split=row.split, Statement=statement(row), Informal_statement=words, proved_by=tactic)


if __name__ == "__main__":
    run_stage(main)
