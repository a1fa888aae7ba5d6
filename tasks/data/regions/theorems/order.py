"""Families of order and divisibility: chains out of order, and expressions built alike on both sides of a relation."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

from tasks.data.regions.theorems.instance import Derivation, Fact, Instance, alphabet, names_of
from tasks.data.regions.theorems.source import Theorems

_TRANSITIVE = {"≤≤": "le_trans", "<<": "lt_trans", "≤<": "lt_of_le_of_lt", "<≤": "lt_of_lt_of_le"}
_RULES = {"+": "add_le_add", "-": "sub_le_sub", "*": "mul_le_mul"}
_DONE = {"+": " by adding", "-": " by subtracting", "*": " by multiplying"}


def order_chain(source: Theorems, rng: random.Random, level: int) -> Instance:
    """`level` + 1 inequalities in random order, by which the first number is at most, or below, the last."""
    letters = alphabet(rng, source.alphabets, level + 2)
    signs = [rng.choice("≤<") for _ in range(level + 1)]
    links = [f"{a} {sign} {b}" for a, sign, b in zip(letters, signs, letters[1:], strict=False)]
    proof = Derivation(rng, links)
    fact, sign = proof.given[links[0]], signs[0]
    for link, following, end in zip(links[1:], signs[1:], letters[2:], strict=True):
        rule, sign = f"Nat.{_TRANSITIVE[sign + following]}", max(sign, following, key="≤<".index)
        fact = proof.apply(rule, fact, proof.given[link], says=f"{letters[0]} {sign} {end}")
    return proof.instance(names_of(letters, "Nat"))


def divides_chain(source: Theorems, rng: random.Random, level: int) -> Instance:
    """`level` divisibilities in random order, by which the first number divides a multiple of the last."""
    *letters, factor = alphabet(rng, source.alphabets, level + 2)
    links = [f"{a} ∣ {b}" for a, b in pairwise(letters)]
    proof = Derivation(rng, links)
    fact = proof.given[links[0]]
    for link, end in zip(links[1:], letters[2:], strict=True):
        fact = proof.apply("Nat.dvd_trans", fact, proof.given[link], says=f"{letters[0]} ∣ {end}")
    _multiplied(rng, proof, fact, letters[0], letters[-1], factor)
    return proof.instance(names_of([*letters, factor], "Nat"))


def divides_sum(source: Theorems, rng: random.Random, level: int) -> Instance:
    """A number divides `level` + 1 others, and so the sum of multiples of some of them."""
    divisor, *letters = alphabet(rng, source.alphabets, 2 * level + 3)
    terms, factors = letters[: level + 1], letters[level + 1 :]
    proof = Derivation(rng, [f"{divisor} ∣ {term}" for term in terms])
    total, so_far = "", None
    for term, factor in zip(terms, factors, strict=True):
        fact = proof.given[f"{divisor} ∣ {term}"]
        if rng.random() < 0.5:
            fact = _multiplied(rng, proof, fact, divisor, term, factor)
        said = fact.says.partition(" ∣ ")[2]
        total = f"{total} + {said}" if total else said
        so_far = proof.apply("Nat.dvd_add", so_far, fact, says=f"{divisor} ∣ {total}") if so_far else fact
    used = [factor for factor in factors if factor in total]
    return proof.instance(names_of([divisor, *terms, *used], "Nat"))


def int_divides(source: Theorems, rng: random.Random, level: int) -> Instance:
    """An integer divides `level` + 1 others, and so their sums, differences and opposites."""
    divisor, *terms = alphabet(rng, source.alphabets, level + 2)
    proof = Derivation(rng, [f"{divisor} ∣ {term}" for term in terms])
    total, so_far = terms[0], proof.given[f"{divisor} ∣ {terms[0]}"]
    for term in terms[1:]:
        sign, rule = rng.choice([("+", "Int.dvd_add"), ("-", "Int.dvd_sub")])
        total = f"{total} {sign} {term}"
        so_far = proof.apply(rule, so_far, proof.given[f"{divisor} ∣ {term}"], says=f"{divisor} ∣ {total}")
    return proof.instance(names_of([divisor, *terms], "Int"))


def _multiplied(rng: random.Random, proof: Derivation, fact: Fact, divisor: str, term: str, factor: str) -> Fact:
    """Go on from `divisor ∣ term` to a multiple of the term, with the factor on either side."""
    side, product = rng.choice([("right", f"{term} * {factor}"), ("left", f"{factor} * {term}")])
    return proof.apply(f"Nat.dvd_mul_{side}_of_dvd", fact, factor, says=f"{divisor} ∣ {product}")


@dataclass(frozen=True)
class _Sides:
    """The two sides of `low ≤ high`, with how tightly they bind: 3 a letter, 2 a product, 1 a sum."""

    low: str
    high: str
    binds: int
    fact: Fact


def monotone(source: Theorems, rng: random.Random, level: int) -> Instance:
    """Sums and products of smaller numbers are smaller: `level` + 1 inequalities joined by + and *, at least once *."""
    signs = ["*", *(rng.choice("+*") for _ in range(level - 1))]
    return _built_alike(source, rng, "Nat", rng.sample(signs, level))


def int_monotone(source: Theorems, rng: random.Random, level: int) -> Instance:
    """The same for integers with + and -, of which - turns its second inequality round, and a factor that is not negative."""
    return _built_alike(source, rng, "Int", [rng.choice("+-") for _ in range(level)], scaled=rng.randint(0, level))


def _built_alike(source: Theorems, rng: random.Random, kind: str, signs: list[str], scaled: int | None = None) -> Instance:
    """Join inequalities by the signs, at random places; after `scaled` of them one part is multiplied by a letter."""
    sides = 2 * len(signs) + 2
    letters = alphabet(rng, source.alphabets, sides + (scaled is not None))
    pairs, factor = list(zip(letters[:sides:2], letters[1:sides:2], strict=True)), letters[-1]
    proof = Derivation(rng, [f"{low} ≤ {high}" for low, high in pairs] + [f"0 ≤ {factor}"] * (scaled is not None))
    parts = [_Sides(low, high, 3, proof.given[f"{low} ≤ {high}"]) for low, high in pairs]
    for number in range(len(signs) + 1):
        if number == scaled:
            place = rng.randrange(len(parts))
            parts[place] = _scaled(proof, factor, parts[place])
        if number < len(signs):
            place = rng.randrange(len(parts) - 1)
            parts[place : place + 2] = [_joined(proof, kind, signs[number], *parts[place : place + 2])]
    return proof.instance(names_of(letters, kind))


def _scaled(proof: Derivation, factor: str, part: _Sides) -> _Sides:
    low, high = (f"{factor} * {_bound(side, part.binds, 3)}" for side in (part.low, part.high))
    rule = "Int.mul_le_mul_of_nonneg_left"
    fact = proof.apply(rule, part.fact, proof.given[f"0 ≤ {factor}"], says=f"{low} ≤ {high}", how=" by scaling")
    return _Sides(low, high, 2, fact)


def _joined(proof: Derivation, kind: str, sign: str, first: _Sides, second: _Sides) -> _Sides:
    binds = 2 if sign == "*" else 1
    lower, higher = (second.high, second.low) if sign == "-" else (second.low, second.high)
    low = f"{_bound(first.low, first.binds, binds)} {sign} {_bound(lower, second.binds, binds + 1)}"
    high = f"{_bound(first.high, first.binds, binds)} {sign} {_bound(higher, second.binds, binds + 1)}"
    fact = proof.apply(f"{kind}.{_RULES[sign]}", first.fact, second.fact, says=f"{low} ≤ {high}", how=_DONE[sign])
    return _Sides(low, high, binds, fact)


def _bound(side: str, binds: int, needed: int) -> str:
    return side if binds >= needed else f"({side})"
