"""Lets a real Lean decide which theorems of Atlas are theorems: drafts in, proved records out.

Every proof of every record has been accepted here. What is not goes to the rejected records with Lean's own message. So that
nobody takes a constant answer for a skill, the same Lean says which theorems a single tactic proves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tasks.prove.checker import Candidate, Checker, CheckerSettings, Verdict, open_checker
from tasks.runtime.lean.difficulty import count_steps
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.progress import Progress
from tasks.runtime.publish import publish, publish_curve, publish_json
from tasks.runtime.records import read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.theorems import Told

MEASURED = ("test", "heldout")
"""The splits on which constant tactics are tried: those on which provers are."""


class Params(StageParams):
    """How the drafts are checked."""

    section: ClassVar[str] = "theorems"
    checker: CheckerSettings = CheckerSettings()
    """The Lean that checks."""
    proofs: int = Field(2, ge=1, le=9)
    """Different proofs that a theorem needs."""
    constants: list[Annotated[str, Field(pattern=r"^[a-z]\w*$")]] = Field(default=["rfl", "decide", "omega", "simp", "grind"])
    """Tactics tried alone on every theorem that is measured."""
    batch: int = Field(100, ge=1)
    """Candidates given to the checker at once: what a kill can cost, since verdicts are kept batch by batch."""


def main(params: Params, run: Run, *, drafts: In, out: Out, scores: Out, constants: Out) -> None:
    """Write what Lean accepts of `drafts`, and what it refuses, into `out`, counts to `scores`,
    and the share of each family's measured theorems that single tactics prove to `constants`.
    """
    told = read_records(drafts, Told)
    _refuse_repeated_names(told)
    with open_checker(params.checker) as checker:
        proofs = [_candidate(row, proof) for row in told for proof in (row.Proof, *row.Other_proofs)]
        asked = [candidate for row in told if row.split in MEASURED for candidate in _constant(row, params.constants)]
        progress = run.progress(len(proofs) + len(asked), "candidates", "checking")
        verdicts = dict(zip(proofs, checked(checker, proofs, params.batch, progress), strict=True))
        kept, rejected = sorted_out(told, verdicts, params.proofs)
        found = checked(checker, asked, params.batch, progress)
    if not kept:
        raise UserError(f"{drafts}: no theorem has {params.proofs} proofs that Lean accepts; the first: {rejected[0]['detail']}")
    measured = by_constants(told, params.constants, found)
    with publish(out) as draft:
        write_records(draft / "theorems.jsonl", kept)
        write_records(draft / "rejected.jsonl", rejected)
    publish_json(scores, describe(kept, rejected, measured))
    publish_curve(constants, measured)


def checked(checker: Checker, candidates: Sequence[Candidate], batch: int, progress: Progress) -> list[Verdict]:
    """Return a verdict for each candidate, asking `batch` at once."""
    verdicts: list[Verdict] = []
    for start in range(0, len(candidates), batch):
        some = candidates[start : start + batch]
        verdicts += checker.check(some)
        progress.advance(len(some))
    return verdicts


def sorted_out(told: Sequence[Told], verdicts: dict[Candidate, Verdict], proofs: int) -> tuple[list[Told], list[dict[str, Any]]]:
    """Return the theorems with at least `proofs` accepted proofs, only those in them, and the proofs refused, with the reason.

    A theorem whose first proof is refused is not kept: its words tell that proof.
    """
    kept: list[Told] = []
    rejected: list[dict[str, Any]] = []
    for row in told:
        judged = [(proof, verdicts[_candidate(row, proof)]) for proof in dict.fromkeys([row.Proof, *row.Other_proofs])]
        good = [proof for proof, verdict in judged if verdict.verified]
        rejected += [
            {"Name": row.Name, "family": row.family, "reason": verdict.reason, "detail": verdict.detail, "Proof": proof}
            for proof, verdict in judged
            if not verdict.verified
        ]
        if row.Proof in good and len(good) >= proofs:
            kept.append(row.model_copy(update={"idx": len(kept), "Other_proofs": good[1:]}))
    return kept, rejected


def by_constants(told: Sequence[Told], tactics: Sequence[str], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return for each family the share of its measured theorems that each tactic alone proves, and any of them."""
    shares: dict[str, list[list[bool]]] = defaultdict(list)
    answers = iter(verdicts)
    for row in told:
        if row.split in MEASURED:
            shares[row.family].append([next(answers).verified for _ in tactics])
    found = []
    for family, proved in shares.items():
        by_tactic = {tactic: sum(one[place] for one in proved) / len(proved) for place, tactic in enumerate(tactics)}
        found.append({"family": family, "theorems": len(proved), **by_tactic, "any": sum(map(any, proved)) / len(proved)})
    return found


def describe(kept: Sequence[Told], rejected: Sequence[dict[str, Any]], measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how many theorems there are by split, family and number of steps, what was refused, and what constants prove."""
    total = sum(row["theorems"] for row in measured)
    tactics = [key for key in (measured[0] if measured else {}) if key not in ("family", "theorems")]
    steps = Counter(count_steps(row.body) for row in kept)
    return {
        "theorems": len(kept),
        "proofs": sum(1 + len(row.Other_proofs) for row in kept),
        "rejected": dict(sorted(Counter(row["reason"] for row in rejected).items())),
        "splits": dict(Counter(row.split for row in kept)),
        "families": dict(Counter(row.family for row in kept)),
        "steps": {str(number): steps[number] for number in sorted(steps)},
        "constant": {tactic: sum(row[tactic] * row["theorems"] for row in measured) / total for tactic in tactics},
    }


def _candidate(row: Told, proof: str) -> Candidate:
    return Candidate(row.Name, row.Statement, proof)


def _constant(row: Told, tactics: Sequence[str]) -> list[Candidate]:
    return [_candidate(row, f"{row.Statement} by {tactic}") for tactic in tactics]


def _refuse_repeated_names(told: Sequence[Told]) -> None:
    """Raise UserError for the first name that two theorems have."""
    for name, count in Counter(row.Name for row in told).items():
        if count > 1:
            raise UserError(f"{name}: {count} theorems of this name; each needs a name of its own, rename or remove them")


if __name__ == "__main__":
    run_stage(main)
