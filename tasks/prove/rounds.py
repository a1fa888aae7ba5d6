"""Iterative proof writing: sample, verify, show what was verified to the next round (TheoremLlama, section 3.3).

    pool = proved examples
    for r in 1..R:
        for each unproved theorem: sample N proofs with examples from the pool, verify
        the verified proofs join the pool; stop if nothing new was proved

While a portion of theorems is checked the next one is sampled. A portion that is checked is sealed on disk, so a killed run goes
on after it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from tasks.prove.checker import Candidate, Checker
from tasks.prove.sampling import Sample
from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.progress import Progress
from tasks.runtime.theorem_prompt import Encoded, Posed

Attempt = dict[str, Any]
"""One proof and its verdict, a line of `attempts.jsonl`."""


class Asked(Protocol):
    """What is asked for proofs: a `Prover`, or a script in a test."""

    def encode(self, pool: Sequence[Posed]) -> list[Encoded]:
        """Return a pool as examples."""

    def sample(
        self, theorems: Sequence[tuple[int, Posed]], pool: Sequence[Posed], encoded: Sequence[Encoded], round_: int
    ) -> list[list[Sample]]:
        """Return the proofs of each theorem."""


@dataclass
class Course:
    """What has been proved so far, and from which pool examples are drawn."""

    theorems: Sequence[Posed]
    pool: list[Posed]
    """Proved theorems: at first those given, then also those proved here."""
    proved: dict[str, int] = field(default_factory=dict)
    """Round in which a theorem was first proved, by name; it only grows."""
    attempts: list[Attempt] = field(default_factory=list)
    rounds: int = 0
    """Rounds that were run."""

    @property
    def open(self) -> list[tuple[int, Posed]]:
        """Theorems still to be proved, with their numbers among all."""
        return [(number, one) for number, one in enumerate(self.theorems) if one.Name not in self.proved]

    def learn(self, attempts: Sequence[Attempt], round_: int) -> int:
        """Take in the attempts of a round; a theorem's first verified proof joins the pool. Return how many are new."""
        by_name = {one.Name: one for one in self.theorems}
        before = len(self.proved)
        for attempt in attempts:
            theorem = by_name[attempt["theorem"]]
            if attempt["verified"] and theorem.Name not in self.proved:
                whole = theorem.Statement + attempt["proof"]
                self.proved[theorem.Name] = round_
                self.pool.append(theorem.model_copy(update={"Proof": whole, "Commented_proof": whole}))
        self.attempts += attempts
        self.rounds = round_
        return len(self.proved) - before


def write_proofs(
    prover: Asked, checker: Checker, course: Course, *, rounds: int, portion: int, place: Checkpoints, progress: Progress
) -> Course:
    """Run the rounds of one prover over the theorems of `course`, which it returns with what was found.

    `portion` theorems are sampled at once, checked together and sealed below `place`. `progress` counts theorems.
    Stops when a round proves nothing new, or nothing is left.
    """
    for round_ in range(1, rounds + 1):
        if not course.open:
            break
        sealed = Checkpoints(place.folder / f"round-{round_}")
        if course.learn(_round(prover, checker, course, round_, portion, sealed, progress), round_) == 0:
            break
    return course


def _round(
    prover: Asked, checker: Checker, course: Course, round_: int, portion: int, place: Checkpoints, progress: Progress
) -> list[Attempt]:
    """Return all attempts of a round, in the theorems' order."""
    open_, pool = course.open, list(course.pool)
    portions = [open_[start : start + portion] for start in range(0, len(open_), portion)]
    done = set(place.steps())
    encoded = prover.encode(pool) if len(done) < len(portions) else []

    def sampled() -> Iterator[tuple[int, list[list[Sample]]]]:
        for number, some in enumerate(portions):
            if number not in done:
                yield number, prover.sample(some, pool, encoded, round_)

    def seal(number: int, samples: list[list[Sample]]) -> None:
        attempts = judged(checker, [one for _, one in portions[number]], samples, round_)
        with place.save(number) as draft:
            (draft / "attempts.json").write_text(json.dumps(attempts, ensure_ascii=False), encoding="utf-8")
        progress.advance(len(portions[number]), f"round {round_}")

    progress.advance(sum(len(portions[number]) for number in done))
    overlapped(sampled(), seal)
    found: list[Attempt] = []
    for number in range(len(portions)):
        found += json.loads((place.place(number) / "attempts.json").read_text(encoding="utf-8"))
    return found


def overlapped(made: Iterator[tuple[int, Any]], use: Callable[[int, Any], None]) -> None:
    """Call `use` on all that is made, in order, while the next is being made. Raises what either raises, at once."""
    with ThreadPoolExecutor(1) as worker:
        waiting: list[Future[None]] = []
        try:
            for number, value in made:
                waiting.append(worker.submit(use, number, value))
                while waiting and waiting[0].done():
                    waiting.pop(0).result()
            for each in waiting:
                each.result()
        except BaseException:
            worker.shutdown(wait=False, cancel_futures=True)
            raise


def judged(checker: Checker, theorems: Sequence[Posed], samples: Sequence[Sequence[Sample]], round_: int) -> list[Attempt]:
    """Return the samples of some theorems with their verdicts."""
    flat = [(theorem, number, one) for theorem, of in zip(theorems, samples, strict=True) for number, one in enumerate(of)]
    candidates = [Candidate(theorem.Name, theorem.Statement, theorem.Statement + one.proof) for theorem, _, one in flat]
    return [
        {
            "round": round_,
            "theorem": theorem.Name,
            "sample": number,
            "temperature": one.temperature,
            "examples": one.examples,
            "whole": one.whole,
            "proof": one.proof,
            "verified": verdict.verified,
            "reason": verdict.reason,
            "detail": verdict.detail,
            "position": list(verdict.position) if verdict.position else None,
            "backend": f"{verdict.backend} {verdict.toolchain} {verdict.library_commit}".strip(),
        }
        for (theorem, number, one), verdict in zip(flat, checker.check(candidates), strict=True)
    ]


def percent(count: int, total: int) -> float:
    """Return `count` of `total` in percent with two decimals, as the paper's table has it: 85 of 244 are 34.84."""
    return round(100 * count / total, 2)


def course_scores(course: Course) -> dict[str, Any]:
    """Return what a course came to: cumulative accuracy by round over all theorems, the share of samples verified, reasons."""
    by_round = [sum(round_ <= number for round_ in course.proved.values()) for number in range(1, course.rounds + 1)]
    reasons = Counter(attempt["reason"] for attempt in course.attempts)
    return {
        "theorems": len(course.theorems),
        "proved": len(course.proved),
        "cumulative_percent": [percent(count, len(course.theorems)) for count in by_round],
        "samples": len(course.attempts),
        "verified_samples": sum(attempt["verified"] for attempt in course.attempts),
        "reasons": dict(sorted(reasons.items())),
    }
