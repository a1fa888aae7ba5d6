"""What the provers of the study proved: by round, family and difficulty, beside a constant tactic; what is new in it; claims.

The cells leave behind:

    attempts/SEED/WITHOUT.jsonl     every proof that was tried, with its verdict
    runs/prove/SEED.json            how many theorems there were, and the backend that judged
    runs/constants.csv              what one tactic alone proves, by family
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from tasks.evaluate.cells import read
from tasks.evaluate.interval import t_interval
from tasks.evaluate.page.figures import Rows, read_curve
from tasks.evaluate.proofs_claims import THEOREMLLAMA
from tasks.evaluate.verdict import ledger
from tasks.runtime.lean.comments import code_lines
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import Record, read_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.theorem_prompt import Posed, steps, tail

SEEN, HELDOUT = "test", "heldout"
"""Splits: new theorems of families that were learned from, and theorems of families that were not."""
SHOWN = 3
"""Failures that the page shows."""
STEPS = (1, 2, 3, 4, 6)
"""Where the bands of difficulty begin: 1, 2, 3, 4 to 5, 6 and more steps."""


class Params(StageParams):
    """The cells of the study, which dvc.yaml makes from the same section, and the level of its intervals."""

    section: ClassVar[str] = "provers"
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2], min_length=1)
    """Seeds of training records and sampling."""
    without: list[Literal["nothing", "words", "inline_comments", "blocks", "curriculum"]] = Field(
        default=["nothing"], min_length=1
    )
    """What provers were trained without, as `prover-data.without`."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the intervals over seeds."""


class Attempt(Record):
    """A proof that was tried."""

    round: int
    theorem: str
    family: str
    split: str
    steps: int | None
    proof: str
    """What follows the statement."""
    verified: bool
    reason: str
    detail: str
    position: list[int] | None = None


Attempts = Sequence[Attempt]


def main(params: Params, run: Run, *, attempts: In, runs: In, records: In, constants: In, scores: Out, curve: Out) -> None:
    """Gather the attempts of all seeds; publish shares, proofs worth seeing and claims, and the shares by round as rows."""
    known = read_records(records, Posed)
    tried = {str(seed): {name: read_attempts(attempts, seed, name) for name in params.without} for seed in params.seeds}
    wanted = wanted_theorems(known, [one for seed in tried.values() for of in seed.values() for one in of])
    seeds = {seed: {str(name): shares(of, wanted) for name, of in by_name.items()} for seed, by_name in tried.items()}
    whole = [of for by_name in tried.values() if (of := by_name.get("nothing"))]
    told = {
        "backend": ", ".join(sorted({read(runs / f"prove/{seed}.json")["backend"] for seed in params.seeds})),
        "theorems": {split: sum(one.split == split for one in wanted.values()) for split in (SEEN, HELDOUT)},
        "provers": {name: summary([seed[name] for seed in seeds.values()], params.confidence) for name in params.without},
        "families": by_family(whole, wanted, read_curve(constants)),
        "difficulty": by_difficulty(whole, wanted),
        "structured": structured(whole, wanted, read_curve(constants)),
        "new": new_proofs(whole, known),
        "longest": longest(whole, wanted),
        "failures": failures(whole, wanted),
        "claims": ledger(THEOREMLLAMA, {"prove-eval": {"seeds": seeds}}, params.confidence),
    }
    publish_json(scores, {**told, "seeds": seeds})
    publish_curve(curve, rows(seeds))


def read_attempts(attempts: Path, seed: int, name: str) -> list[Attempt]:
    """Read the attempts of a cell. Raises UserError when they are missing or damaged."""
    path = attempts / str(seed) / f"{name}.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage prove of seed {seed} again")
    return read_records(path, Attempt)


def wanted_theorems(known: Sequence[Posed], attempts: Iterable[Attempt]) -> dict[str, Posed]:
    """Return the theorems that were tried, by name. Raises UserError for one that the records do not have."""
    by_name = {one.Name: one for one in known}
    names = dict.fromkeys(attempt.theorem for attempt in attempts)
    if missing := [name for name in names if name not in by_name]:
        raise UserError(f"theorem {missing[0]} was tried but is not among the records; run prove again")
    return {name: by_name[name] for name in names}


def shares(attempts: Attempts, wanted: Mapping[str, Posed]) -> dict[str, Any]:
    """Return what one prover proved, in percent of all theorems of a split: after each round, and the share of its samples."""
    first = first_proofs(attempts)
    rounds = max(one.round for one in attempts)
    found: dict[str, Any] = {}
    for split in (SEEN, HELDOUT):
        names = [name for name, one in wanted.items() if one.split == split]
        own = [one for one in attempts if one.split == split]
        after = [
            percent(sum(first.get(name, rounds + 1) <= number for name in names), len(names)) for number in range(1, rounds + 1)
        ]
        found[split] = {
            "rounds": after,
            "first_round": after[0],
            "cumulative": after[-1],
            "samples": percent(sum(one.verified for one in own), len(own)),
        }
    return found


def first_proofs(attempts: Attempts) -> dict[str, int]:
    """Return the round in which each proved theorem was first proved, by name."""
    found: dict[str, int] = {}
    for one in attempts:
        if one.verified:
            found[one.theorem] = min(one.round, found.get(one.theorem, one.round))
    return found


def percent(count: int, total: int) -> float:
    """Return a share in percent; of nothing it is 0."""
    return 100 * count / total if total else 0.0


def summary(seeds: Sequence[Mapping[str, Any]], confidence: float) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return mean and interval over seeds of every share of a prover."""
    told: dict[str, dict[str, dict[str, float | None]]] = {}
    for split in (SEEN, HELDOUT):
        told[split] = {}
        for name in ("first_round", "cumulative", "samples"):
            mean = t_interval([seed[split][name] for seed in seeds], confidence)
            told[split][name] = {"mean": mean.mean, "low": mean.low, "high": mean.high}
    return told


def by_family(seeds: Sequence[Attempts], wanted: Mapping[str, Posed], constants: Rows) -> list[dict[str, Any]]:
    """Return each family's theorems, and the share proved in the first round, in all, of samples, and by a constant tactic."""
    told = {row["family"]: 100 * float(row["any"]) for row in constants}
    families: dict[str, list[str]] = defaultdict(list)
    for name, one in wanted.items():
        families[one.family].append(name)
    return [
        {
            "family": family,
            "split": wanted[names[0]].split,
            "theorems": len(names),
            **_proved(seeds, names),
            "constant": told.get(family),
        }
        for family, names in families.items()
    ]


def by_difficulty(seeds: Sequence[Attempts], wanted: Mapping[str, Posed]) -> list[dict[str, Any]]:
    """Return the same for each band of difficulty of the families that were learned from."""
    bands: dict[int, list[str]] = {start: [] for start in STEPS}
    for name, one in wanted.items():
        if one.split == SEEN:
            bands[max(start for start in STEPS if start <= max(1, steps(one)))].append(name)
    ends = [str(start) if start + 1 == after else f"{start}–{after - 1}" for start, after in pairwise(STEPS)]
    labels = dict(zip(STEPS, [*ends, f"{STEPS[-1]}+"], strict=True))
    return [{"steps": labels[start], "theorems": len(names), **_proved(seeds, names)} for start, names in bands.items() if names]


def _proved(seeds: Sequence[Attempts], names: Sequence[str]) -> dict[str, float]:
    """Return the share of theorems proved in the first round and in all, and of samples, in percent, mean over seeds."""
    if not seeds:
        return {"first_round": 0.0, "proved": 0.0, "samples": 0.0}
    wanted, found = set(names), [first_proofs(attempts) for attempts in seeds]
    own = [[one.verified for one in attempts if one.theorem in wanted] for attempts in seeds]
    return {
        "first_round": fmean(percent(sum(first.get(name) == 1 for name in names), len(names)) for first in found),
        "proved": fmean(percent(sum(name in first for name in names), len(names)) for first in found),
        "samples": fmean(percent(sum(each), len(each)) for each in own),
    }


def structured(seeds: Sequence[Attempts], wanted: Mapping[str, Posed], constants: Rows) -> float:
    """Return the share of test theorems with a proof that is more than one constant tactic, in percent, mean over seeds."""
    lone = {("by", tactic) for row in constants for tactic in row}
    names = {name for name, one in wanted.items() if one.split == SEEN}
    found = [{one.theorem for one in of if one.verified and code(one.proof) not in lone} for of in seeds]
    return fmean(percent(len(each & names), len(names)) for each in found) if found else 0.0


def new_proofs(seeds: Sequence[Attempts], known: Sequence[Posed]) -> dict[str, Any]:
    """Return how many different verified proofs there are, and which of them are in no record, comments aside.

    A record's proof counts for every theorem, and a theorem's own proofs that were written with it count too.
    """
    told = {code(tail(proof, one.Statement)) for one in known for proof in proofs_of(one)}
    verified = {(one.theorem, code(one.proof)): one.proof for of in seeds for one in of if one.verified}
    fresh = [(theorem, proof) for (theorem, text), proof in sorted(verified.items()) if text not in told]
    statements = {one.Name: one.Statement for one in known}
    shown = sorted(fresh, key=lambda pair: (-len(code(pair[1])), pair))[:SHOWN]
    return {
        "verified": len(verified),
        "new": len(fresh),
        "shown": [{"theorem": theorem, "text": statements[theorem] + proof} for theorem, proof in shown],
    }


def proofs_of(record: Posed) -> list[str]:
    """Return every proof that a record holds, statement included."""
    return [record.Proof, *((record.model_extra or {}).get("Other_proofs") or [])]


def code(proof: str) -> tuple[str, ...]:
    """Return the code of a proof: its lines without comments."""
    return tuple(line.strip() for line in code_lines(proof))


def longest(seeds: Sequence[Attempts], wanted: Mapping[str, Posed]) -> dict[str, Any] | None:
    """Return the verified proof with the most lines of code, the first of them by name; None where nothing was verified."""
    verified = {(one.theorem, one.proof) for of in seeds for one in of if one.verified}
    if not verified:
        return None
    theorem, proof = min(verified, key=lambda pair: (-len(code(pair[1])), -len(pair[1]), pair))
    return {"theorem": theorem, "lines": len(code(proof)), "text": wanted[theorem].Statement + proof}


def failures(seeds: Sequence[Attempts], wanted: Mapping[str, Posed]) -> list[dict[str, Any]]:
    """Return a few attempts on theorems that no seed proved, with Lean's message, each of another family, the easiest first."""
    proved = {name for of in seeds for name in first_proofs(of)}
    refused = [one for of in seeds for one in of if one.theorem not in proved and one.reason == "error"]
    refused.sort(key=lambda one: (steps(wanted[one.theorem]), one.theorem, one.round, one.proof))
    found: dict[str, Attempt] = {}
    for one in refused:
        found.setdefault(one.family, one)
    return [
        {
            "theorem": one.theorem,
            "text": wanted[one.theorem].Statement + one.proof,
            "line": one.position[0] if one.position else None,
            "message": one.detail,
        }
        for one in list(found.values())[:SHOWN]
    ]


def rows(seeds: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the share proved after every round of every prover, as rows of a plot."""
    return [
        {"seed": seed, "without": name, "split": split, "round": number, "percent": value}
        for seed, by_name in seeds.items()
        for name, found in by_name.items()
        for split in (SEEN, HELDOUT)
        for number, value in enumerate(found[split]["rounds"], 1)
    ]


if __name__ == "__main__":
    run_stage(main)
