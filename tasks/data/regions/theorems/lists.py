"""Families of lists: where an element is found, and how long what is built of lists is."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tasks.data.regions.theorems.instance import Derivation, Instance, Line, names_of
from tasks.data.regions.theorems.source import Theorems

LISTS = "stuvw"
NUMBERS = "xyz"


def membership(source: Theorems, rng: random.Random, level: int) -> Instance:
    """An element of a list is in what `level` appends and new heads make of it."""
    proof = Derivation(rng, ["x ∈ s"])
    fact, lists, heads, built = proof.given["x ∈ s"], ["s"], ["x"], "s"
    for _ in range(level):
        side = rng.choice(["left", "right"] if len(heads) == len(NUMBERS) else ["left", "right", "head"])
        if side == "head":
            heads.append(NUMBERS[len(heads)])
            built = f"({heads[-1]} :: {built})"
            fact = proof.apply("List.mem_cons_of_mem", heads[-1], fact, says=f"x ∈ {built[1:-1]}")
            continue
        lists.append(LISTS[len(lists)])
        built = f"({built} ++ {lists[-1]})" if side == "left" else f"({lists[-1]} ++ {built})"
        fact = proof.apply(f"List.mem_append_{side}", lists[-1], fact, says=f"x ∈ {built[1:-1]}")
    return proof.instance((*names_of(heads, "Nat"), *names_of(lists, "List Nat")))


@dataclass(frozen=True)
class _Part:
    """A list that others are appended to, and how its length is found."""

    written: str
    """In Lean."""
    lemma: str | None
    """The lemma that gives its length from that of a list in it."""
    said: str
    length: str
    """The length, as the sum has it."""


def list_length(source: Theorems, rng: random.Random, level: int) -> Instance:
    """The length of `level` + 1 lists appended, some reversed or with a new head, is the sum of theirs in another order."""
    parts = [_part(rng, LISTS[number], NUMBERS[number % 3]) for number in range(level + 1)]
    order = rng.sample(parts, len(parts))
    while order == parts:
        order = rng.sample(parts, len(parts))
    lemmas = ["List.length_append"] * level + [part.lemma for part in parts if part.lemma]
    lines = [Line("rw [List.length_append]", f"Split off the length of {part.written}.") for part in parts[:0:-1]]
    lines += [Line(f"rw [{part.lemma}]", part.said) for part in parts if part.lemma]
    lines.append(Line("omega", "The sums agree."))
    claim = f"({' ++ '.join(part.written for part in parts)}).length = {' + '.join(part.length for part in order)}"
    other = (f"simp only [{', '.join(dict.fromkeys(lemmas))}]", "omega")
    heads = [NUMBERS[number % 3] for number, part in enumerate(parts) if "::" in part.written]
    variables = (*(names_of(sorted(set(heads)), "Nat") if heads else ()), *names_of(list(LISTS[: level + 1]), "List Nat"))
    return Instance(variables, (), claim, tuple(lines), (other,))


def _part(rng: random.Random, name: str, head: str) -> _Part:
    return rng.choice(
        [
            _Part(name, None, "", f"{name}.length"),
            _Part(f"{name}.reverse", "List.length_reverse", f"{name} reversed is as long as {name}.", f"{name}.length"),
            _Part(f"({head} :: {name})", "List.length_cons", f"{head} makes {name} longer by 1.", f"{name}.length + 1"),
        ]
    )


def list_measure(source: Theorems, rng: random.Random, level: int) -> Instance:
    """A function that grows by a constant with each element is linear in the length; level 2 begins above 0."""
    step, start = rng.randint(1, 9), rng.randint(1, 9) if level > 1 else 0
    grown = rng.choice([f"g s + {step}", f"{step} + g s"])
    closed = rng.choice([f"{step} * s.length", f"s.length * {step}"])
    claim = rng.choice([f"{closed} + {start}", f"{start} + {closed}"]) if start else closed
    lines = (
        Line("intro s", "Take a list s."),
        Line("induction s with", "Go by induction on s."),
        Line("| nil => rw [h1, List.length_nil]", f"For the empty list both sides are {start}."),
        Line("| cons x s k =>", "Let it hold for s, and x be a new head."),
        Line("  rw [h2, k, List.length_cons]", f"Then g grows by {step} and the length by 1."),
        Line("  omega", "The sums agree."),
    )
    other = (
        "intro s",
        "induction s with",
        "| nil => simp [h1]",
        "| cons x s k =>",
        "  have h3 := h2 x s",
        "  simp only [List.length_cons]",
        "  omega",
    )
    hypotheses = (f"g [] = {start}", f"∀ x s, g (x :: s) = {grown}")
    return Instance(names_of(["g"], "List Nat → Nat"), hypotheses, f"∀ s, g s = {claim}", lines, (other,))


def list_append(source: Theorems, rng: random.Random, level: int) -> Instance:
    """A function that grows with each element, by a constant (level 1) or by the element (2), adds up over lists appended."""
    grown = rng.choice([f"g s + {rng.randint(1, 9)}", f"{rng.randint(1, 9)} + g s"]) if level == 1 else None
    times = rng.randint(1, 9)
    grown = grown or rng.choice([f"g s + x * {times}", f"x * {times} + g s", f"{times} * x + g s"])
    swapped = rng.random() < 0.5
    lines = (
        Line("intro s t", "Take lists s and t."),
        Line("induction s with", "Go by induction on s."),
        Line("| nil => rw [List.nil_append, h1]; omega", "For the empty list both sides are g t."),
        Line("| cons x s k =>", "Let it hold for s, and x be a new head."),
        Line("  rw [List.cons_append, h2, h2, k]", "Then both sides grow alike."),
        Line("  omega", "The sums agree."),
    )
    other = ("intro s t", "induction s with", "| nil => simp [h1]", "| cons x s k =>", "  simp [h2, k]", "  omega")
    claim = "∀ s t, g (s ++ t) = " + ("g t + g s" if swapped else "g s + g t")
    return Instance(names_of(["g"], "List Nat → Nat"), ("g [] = 0", f"∀ x s, g (x :: s) = {grown}"), claim, lines, (other,))
