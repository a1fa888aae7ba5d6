"""Writes the theorems of Atlas before any Lean has seen them: drafts, which the stage `theorems` checks one by one.

Statements are new up to renaming, so none stands in two splits. Same source, same seed, same bytes.
"""

from __future__ import annotations

import random
from typing import ClassVar

from pydantic import Field

from tasks.data.regions.theorems import FAMILIES
from tasks.data.regions.theorems.instance import Instance
from tasks.data.regions.theorems.source import Theorems, load_theorems
from tasks.runtime.lean.comments import woven
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish
from tasks.runtime.records import write_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.theorems import Split, Told

_PATIENCE = 200
"""Draws for each theorem wanted, after which a family is taken to have no more."""


class Params(StageParams):
    """How many theorems of each family there are."""

    section: ClassVar[str] = "theorem-drafts"
    seed: int = Field(0, ge=0)
    """Seed of every family's random stream."""
    train: int = Field(36, ge=1, le=10_000)
    """Theorems of each family that are learned from."""
    valid: int = Field(4, ge=0, le=1000)
    """Theorems of each family for choosing."""
    test: int = Field(6, ge=1, le=1000)
    """Theorems of each family for measuring."""
    heldout: int = Field(12, ge=1, le=1000)
    """Theorems of each family that is held out whole."""


def main(params: Params, run: Run, *, atlas: In, out: Out, read: Out) -> None:
    """Write the drafts of the source in `atlas` to `out`, and to `read` those of training as a base model may read them:
    unchecked, their words woven in.
    """
    rows = drafts(load_theorems(atlas), params)
    with publish(out) as draft:
        write_records(draft, rows)
    with publish(read) as draft:
        told = [row.model_dump() | {"Commented_proof": woven(row.Statement, row.body, row.told)} for row in rows]
        write_records(draft, [one for one in told if one["split"] == "train"])


def drafts(source: Theorems, params: Params) -> list[Told]:
    """Return the drafts of all families, numbered. Raises UserError for an unknown family, or one that makes too few theorems."""
    found: list[Told] = []
    for family, entry in source.families.items():
        if family not in FAMILIES:
            raise UserError(f"theorems.yaml: families.{family}: unknown family; known are {', '.join(FAMILIES)}")
        rng = random.Random(f"{params.seed}/{family}")
        sizes: dict[Split, int] = {"train": params.train, "valid": params.valid, "test": params.test}
        if entry.heldout:
            sizes = {"heldout": params.heldout}
        instances = distinct(source, family, entry.levels, sum(sizes.values()), rng)
        rng.shuffle(instances)
        splits = [split for split, size in sizes.items() for _ in range(size)]
        for number, (instance, split) in enumerate(zip(instances, splits, strict=True)):
            found.append(_draft(instance, family, number, split, len(found)))
    return found


def distinct(source: Theorems, family: str, levels: list[int], count: int, rng: random.Random) -> list[Instance]:
    """Return `count` instances that differ in more than names, spread over the levels as evenly as these have instances."""
    found: dict[str, Instance] = {}
    for draw in range(count * _PATIENCE):
        if len(found) == count:
            break
        instance = FAMILIES[family](source, rng, levels[draw % len(levels)])
        found.setdefault(instance.form(), instance)
    if len(found) < count:
        raise UserError(
            f"theorems.yaml: families.{family} makes only {len(found)} different theorems, {count} are wanted; "
            "add levels to it, or lower train, valid or test of section theorem-drafts"
        )
    return list(found.values())


def _draft(instance: Instance, family: str, number: int, split: Split, idx: int) -> Told:
    statement = instance.statement(f"{family}_{number}")
    first, *others = [f"{statement} {proof}" for proof in instance.proofs()]
    return Told(
        idx=idx,
        Name=f"{family}_{number}",
        Statement=statement,
        Proof=first,
        Informal_statement=instance.told(),
        Informal_proof=instance.told_proof(),
        File_path="data/atlas/theorems.yaml",
        Commit="",
        family=family,
        split=split,
        Other_proofs=others,
        told_by="rules",
        told=[line.said for line in instance.lines],
    )


if __name__ == "__main__":
    run_stage(main)
