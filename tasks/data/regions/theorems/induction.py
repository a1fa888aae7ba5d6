"""Families of induction over the natural numbers: what is reached, closed forms of recurrences, and bounds of what grows."""

from __future__ import annotations

import random

from tasks.data.regions.theorems.instance import Derivation, Instance, Line, names_of
from tasks.data.regions.theorems.source import Theorems


def reach(source: Theorems, rng: random.Random, level: int) -> Instance:
    """A property of one number passes on by one or two rules; it holds for the number that is `level` steps away."""
    start, step = rng.randint(0, 9), rng.randint(2, 9)
    rules = [(f"∀ n, p n → p (n + {step})", lambda n: n + step)]
    if rng.random() < 0.5:
        rules.append(("∀ n, p n → p (n * 2)", lambda n: n * 2))
    proof = Derivation(rng, [f"p {start}", *(says for says, _ in rules)])
    fact, number = proof.given[f"p {start}"], start
    for _ in range(level):
        says, rule = rng.choice(rules)
        if rule(number) in (0, number) or rule(number) > 3 * source.largest:
            says, rule = rules[0]
        name = proof.given[says].name
        fact = proof.apply(f"{name} {number}", fact, says=f"p {rule(number)}", by=name)
        number = rule(number)
    return proof.instance(names_of(["p"], "Nat → Prop"))


def recurrence(source: Theorems, rng: random.Random, level: int) -> Instance:
    """A function that grows by a constant is linear; level 2 begins above 0."""
    step, start = rng.randint(1, source.largest), rng.randint(1, source.largest) if level > 1 else 0
    grown = rng.choice([f"f n + {step}", f"{step} + f n"])
    closed = rng.choice([f"{step} * n", f"n * {step}"])
    claim = rng.choice([f"{closed} + {start}", f"{start} + {closed}"]) if start else closed
    lines = _by_induction("rw [h1]", f"At 0 both sides are {start}.", "rw [h2, k]", f"Then f grows by {step}.")
    other = ("intro n", "induction n with", "| zero => omega", "| succ n k =>", "  have h3 := h2 n", "  omega")
    hypotheses = (f"f 0 = {start}", f"∀ n, f (n + 1) = {grown}")
    return Instance(names_of(["f"], "Nat → Nat"), hypotheses, f"∀ n, f n = {claim}", lines, (other,))


def powers(source: Theorems, rng: random.Random, level: int) -> Instance:
    """A function that is multiplied by a constant is a power; level 2 begins above 1."""
    base, start = rng.randint(2, 9), rng.randint(2, 9) if level > 1 else 1
    grown = rng.choice([f"f n * {base}", f"{base} * f n"])
    claim = rng.choice([f"{start} * {base} ^ n", f"{base} ^ n * {start}"]) if start > 1 else f"{base} ^ n"
    lines = _by_induction(
        "rw [h1]", f"At 0 both sides are {start}.", "rw [h2, k, Nat.pow_succ]", f"Then both sides grow {base} times."
    )
    other = ("intro n", "induction n with", "| zero => simp [h1]", "| succ n k =>", "  simp [h2, k, Nat.pow_succ]", "  try omega")
    if "f n *" in grown and start == 1:
        lines = lines[:-1]
    hypotheses = (f"f 0 = {start}", f"∀ n, f (n + 1) = {grown}")
    return Instance(names_of(["f"], "Nat → Nat"), hypotheses, f"∀ n, f n = {claim}", lines, (other,))


def growth(source: Theorems, rng: random.Random, level: int) -> Instance:
    """What grows by at least a constant is bounded below, what grows by at most one is bounded above; level 2 begins above 0."""
    step, start = rng.randint(1, source.largest), rng.randint(1, source.largest) if level > 1 else 0
    at_least = rng.random() < 0.5
    bound = f"{step} * n + {start}" if start else f"{step} * n"
    if at_least:
        hypotheses = (f"{start} ≤ f 0", f"∀ n, f n + {step} ≤ f (n + 1)")
        claim, said = f"{bound} ≤ f n", f"Then f grows by at least {step}."
    else:
        hypotheses = (f"f 0 ≤ {start}", f"∀ n, f (n + 1) ≤ f n + {step}")
        claim, said = f"f n ≤ {bound}", f"Then f grows by at most {step}."
    lines = _by_induction("omega", "At 0 it is given.", "have h3 := h2 n", said)
    other = ("intro n", "induction n with", "| zero => simpa using h1", "| succ n k =>", "  have h3 := h2 n", "  grind")
    return Instance(names_of(["f"], "Nat → Nat"), hypotheses, f"∀ n, {claim}", lines, (other,))


def _by_induction(base: str, said_base: str, step: str, said_step: str) -> tuple[Line, ...]:
    return (
        Line("intro n", "Take a number n."),
        Line("induction n with", "Go by induction on n."),
        Line(f"| zero => {base}", said_base),
        Line("| succ n k =>", "Let it hold for n."),
        Line(f"  {step}", said_step),
        Line("  omega", "The sums agree."),
    )
