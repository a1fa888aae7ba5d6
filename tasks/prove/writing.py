"""Provers write proofs in rounds and a real Lean checks them: what the stages `prove` and `prove-core` do.

What Lean accepts becomes an example of the next round. Several provers, such as those of an ablation, share one checker and its
cache: equal proofs of one theorem are checked once.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.prove.checker import CheckerSettings, open_checker
from tasks.prove.rounds import Course, course_scores, write_proofs
from tasks.prove.sampling import Prover, SamplingParams
from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.models import set_determinism
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import read_records, write_records
from tasks.runtime.stage import Run
from tasks.runtime.theorem_prompt import Posed


class WritingParams(SamplingParams):
    """Rounds of proof writing."""

    rounds: int = Field(2, ge=1, le=100)
    """Rounds at most; a round that proves nothing new is the last."""
    pool: int = Field(64, ge=0, le=100_000)
    """Training records that the first round draws its examples from; the paper has fewer than 100."""
    splits: list[str] = Field(default=["test", "heldout"], min_length=1)
    """Splits whose theorems are to be proved."""
    limit: int | None = Field(None, ge=1)
    """Most theorems of each family; null proves all."""
    checker: CheckerSettings = CheckerSettings()
    """The Lean that checks."""


def write_all(params: WritingParams, run: Run, *, provers: Path, examples: Path, theorems: Path, out: Path, scores: Path) -> None:
    """Prove the theorems of the file `theorems` by every prover in `provers`, with examples from the file `examples`."""
    set_determinism(params.seed, params.threads)
    pool, wanted = starting_pool(examples, params), to_prove(theorems, params)
    folders = prover_folders(provers)
    portion = max(1, params.generate_batch // params.samples)
    progress = run.progress(len(folders) * len(wanted) * params.rounds, "theorems", "proving")
    with open_checker(params.checker) as checker:
        courses = {
            name: write_proofs(
                Prover(folder, params),
                checker,
                Course(wanted, list(pool)),
                rounds=params.rounds,
                portion=portion,
                place=Checkpoints(run.checkpoints.folder / name),
                progress=progress,
            )
            for name, folder in folders.items()
        }
    publish_all(courses, out, scores)
    run.checkpoints.clear()


def publish_all(courses: Mapping[str, Course], out: Path, scores: Path) -> None:
    """Publish every attempt, and the scores of every prover."""
    with publish(out) as draft:
        for name, course in courses.items():
            about = {one.Name: {"family": one.family, "split": one.split, "steps": one.steps} for one in course.theorems}
            write_records(draft / f"{name}.jsonl", [{**one, **about[one["theorem"]]} for one in course.attempts])
    backends = sorted({attempt["backend"] for course in courses.values() for attempt in course.attempts})
    told: dict[str, Any] = {name: course_scores(course) for name, course in courses.items()}
    publish_json(scores, {"backend": ", ".join(backends), "provers": told})


def starting_pool(examples: Path, params: WritingParams) -> list[Posed]:
    """Return the proved theorems that the first round draws from: `pool` of the training split, drawn by the seed."""
    known = [one for one in read_records(examples, Posed) if one.split == "train"]
    if params.pool and not known:
        raise UserError(f"{examples}: no record of the training split to show as an example; set {params.section}.pool to 0")
    return random.Random(params.seed).sample(known, min(params.pool, len(known)))


def to_prove(theorems: Path, params: WritingParams) -> list[Posed]:
    """Return the theorems of the wanted splits, at most `limit` a family. Raises UserError for none, or two of one name."""
    found: list[Posed] = []
    counts: dict[str, int] = {}
    for one in read_records(theorems, Posed):
        if one.split in params.splits and (params.limit is None or counts.get(one.family, 0) < params.limit):
            counts[one.family] = counts.get(one.family, 0) + 1
            found.append(one)
    if not found:
        raise UserError(f"{theorems}: no theorem of split {' or '.join(params.splits)}; set {params.section}.splits")
    _refuse_twins(found, theorems)
    return found


def _refuse_twins(theorems: Sequence[Posed], source: Path) -> None:
    seen: set[str] = set()
    for one in theorems:
        if one.Name in seen:
            raise UserError(f"{source}: two theorems of the name {one.Name}; rename one, results are kept by name")
        seen.add(one.Name)


def prover_folders(provers: Path) -> dict[str, Path]:
    """Return the model folders by name: the one given, or those right below it. Raises UserError when there is none."""
    if (provers / "config.json").is_file():
        return {"prover": provers}
    found = {place.name: place for place in sorted(provers.iterdir()) if (place / "config.json").is_file()}
    if not found:
        raise UserError(f"{provers}: neither a model folder nor a folder of model folders; run the stage prover first")
    return found
