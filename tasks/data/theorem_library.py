"""Further theorems of the families that are learned from: what a base model of Atlas may have read before it learns to prove.

No Lean has seen them, as none sees most of what a base model reads. None states, up to renaming, what a given theorem states.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from tasks.data.regions.theorems import FAMILIES
from tasks.data.regions.theorems.instance import Instance
from tasks.data.regions.theorems.source import Theorems
from tasks.runtime.theorem_prompt import Posed

_PATIENCE = 20
"""Draws for each theorem wanted, after which a family is taken to have no more."""
_LINE = re.compile(r"h\d+")


def library(source: Theorems, given: Iterable[Posed], count: int, seed: int) -> list[Posed]:
    """Return up to `count` new theorems of each family that has training theorems among those given."""
    known: dict[str, set[str]] = {}
    learned: set[str] = set()
    for one in given:
        known.setdefault(one.family, set()).add(read(one.Statement).form())
        if one.split == "train":
            learned.add(one.family)
    found: list[Posed] = []
    for family in sorted(learned & set(source.families)):
        rng, levels = random.Random(f"library/{seed}/{family}"), source.families[family].levels
        fresh: dict[str, Instance] = {}
        for draw in range(count * _PATIENCE):
            if len(fresh) == count:
                break
            instance = FAMILIES[family](source, rng, levels[draw % len(levels)])
            if (form := instance.form()) not in known[family]:
                fresh.setdefault(form, instance)
        found += [_posed(instance, family, number) for number, instance in enumerate(fresh.values())]
    return found


def read(statement: str) -> Instance:
    """Return the variables, hypotheses and claim of a statement of Atlas, the proof left out."""
    rest = statement.split(maxsplit=2)[2].strip()
    variables, hypotheses = [], []
    while rest.startswith("("):
        stop = _closing(rest)
        names, _, what = rest[1:stop].partition(" : ")
        if _LINE.fullmatch(names):
            hypotheses.append(what)
        else:
            variables.append((names, what))
        rest = rest[stop + 1 :].lstrip()
    claim = rest.removeprefix(":").removesuffix(":=").strip()
    return Instance(tuple(variables), tuple(hypotheses), claim, (), ())


def _closing(text: str) -> int:
    """Return where the bracket that opens `text` closes."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return place
    raise ValueError(f"a bracket never closes in {text!r}")


def _posed(instance: Instance, family: str, number: int) -> Posed:
    statement = instance.statement(f"{family}_l{number}")
    return Posed(
        Name=f"{family}_l{number}",
        Statement=statement,
        Proof=f"{statement} {next(instance.proofs())}",
        Commented_proof=f"{statement} {instance.commented()}",
        Informal_statement=instance.told(),
        Informal_proof=instance.told_proof(),
        family=family,
        split="library",
    )
