"""Families of closed arithmetic, of witnesses, and of sums and products whose terms are to be put in order."""

from __future__ import annotations

import random

from tasks.data.regions.theorems.instance import Instance, Line, alphabet, names_of
from tasks.data.regions.theorems.source import Theorems


def numerals(source: Theorems, rng: random.Random, level: int) -> Instance:
    """A closed fact of one (level 1) or two operations, an equation or a comparison."""
    a, b, c = (rng.randint(2, source.largest) for _ in range(3))
    left, value = (f"{a} + {b}", a + b) if level == 1 else (f"{a} * {b} + {c}", a * b + c)
    relation = rng.choice(["=", "<", "≤", "≠"])
    right = {"=": value, "<": value + rng.randint(1, 9), "≤": value + rng.randint(0, 9), "≠": value + rng.choice([-1, 1, 2])}[
        relation
    ]
    tactic, other = ("rfl", "decide") if relation == "=" else ("decide", "omega")
    said = f"The left side is {value}."
    return Instance((), (), f"{left} {relation} {right}", (Line(tactic, said),), ((other,),))


def witness(source: Theorems, rng: random.Random, level: int) -> Instance:
    """There is a number that solves an equation (levels 1, 2), or there are two with a given sum and difference (level 3)."""
    x, a, b = rng.randint(0, source.largest), rng.randint(1, source.largest), rng.randint(2, 5)
    if level == 3:
        high, low = x + a, x
        claim = f"∃ x y : Nat, x + y = {high + low} ∧ x = y + {a}"
        taken = Line(f"refine ⟨{high}, {low}, ?_, ?_⟩", f"Take ({high}, {low}).")
        lines = (taken, Line("· rfl", "Their sum is right."), Line("· rfl", "So is their difference."))
        return Instance((), (), claim, lines, ((f"exact ⟨{high}, {low}, by decide⟩",), (f"exact ⟨{high}, {low}, rfl, rfl⟩",)))
    left = f"x + {a}" if level == 1 else f"x * {b} + {a}"
    value = x + a if level == 1 else x * b + a
    claim = f"∃ x : Nat, {left} = {value}" if rng.random() < 0.5 else f"∃ x : Nat, {value} = {left}"
    return Instance((), (), claim, (Line(f"exact ⟨{x}, rfl⟩", f"Take ({x})."),), ((f"refine ⟨{x}, ?_⟩", "decide"),))


def sum_order(source: Theorems, rng: random.Random, level: int) -> Instance:
    """A sum equals the sum of its terms in another order, `level` swaps of neighbours away."""
    return _reordered(source, rng, level, "+", "add", ("omega",))


def product_order(source: Theorems, rng: random.Random, level: int) -> Instance:
    """A product equals the product of its factors in another order, `level` swaps of neighbours away."""
    return _reordered(source, rng, level, "*", "mul", ("ac_rfl",))


def _reordered(source: Theorems, rng: random.Random, level: int, sign: str, lemma: str, other: tuple[str, ...]) -> Instance:
    count = rng.randint(3 if level <= 3 else 4, 5)
    letters = alphabet(rng, source.alphabets, count)
    order, swaps = _swapped(rng, count, level)
    start = [letters[order.index(place)] for place in range(count)]
    now, lines = list(start), []
    for place in swaps:
        first, second = now[place], now[place + 1]
        now[place], now[place + 1] = second, first
        rule = f"Nat.{lemma}_right_comm _ {first} {second}" if place else f"Nat.{lemma}_comm {first} {second}"
        said = f"Swap {first} and {second}{'' if place else ' in front'} : {f' {sign} '.join(now)}."
        lines.append(Line(f"rw [{rule}]", said))
    claim = f" {sign} ".join(start) + " = " + f" {sign} ".join(now)
    return Instance(names_of(letters, "Nat"), (), claim, tuple(lines), (other,))


def _swapped(rng: random.Random, count: int, level: int) -> tuple[list[int], list[int]]:
    """Return an order of `count` places and `level` swaps of neighbours that sort it, none of which could be left out."""
    order = list(range(count))
    swaps: list[int] = []
    while len(swaps) < level:
        rising = [place for place in range(count - 1) if order[place] < order[place + 1]]
        if not rising:
            break
        place = rng.choice(rising)
        order[place], order[place + 1] = order[place + 1], order[place]
        swaps.append(place)
    return order, swaps
