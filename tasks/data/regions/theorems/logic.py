"""Families of logic: rules to be applied in the right order, and conjunctions and disjunctions to be taken apart and rebuilt."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

from tasks.data.regions.theorems.instance import Derivation, Fact, Instance, Line, alphabet, cited, names_of
from tasks.data.regions.theorems.source import Theorems

PROPOSITIONS = "pqrstuvw"
Tree = str | tuple["Tree", "Tree"]
"""A proposition letter, or two trees joined by one connective."""


def implications(source: Theorems, rng: random.Random, level: int) -> Instance:
    """`level` rules with one or two premises each, in random order among the facts they start from."""
    letters = list(PROPOSITIONS[: level + 2])
    known, rules = letters[:2], []
    for number, new in enumerate(letters[2:]):
        newest = letters[number + 1]
        others = [letter for letter in letters[: number + 1] if letter != newest]
        premises = [newest, rng.choice(others)] if number == 0 or rng.random() < 0.4 else [newest]
        rules.append((rng.sample(premises, len(premises)), new))
    written = {new: " → ".join([*premises, new]) for premises, new in rules}
    proof = Derivation(rng, [*known, *written.values()])
    facts = {letter: proof.given[letter] for letter in known}
    for premises, new in rules:
        rule = proof.given[written[new]]
        facts[new] = proof.apply(rule.name, *(facts[premise] for premise in premises), says=new, by=rule.name)
    return proof.instance(names_of(letters, "Prop"))


def conjunctions(source: Theorems, rng: random.Random, level: int) -> Instance:
    """A conjunction of `level` + 1 propositions in one arrangement gives that in another."""
    letters, before, after = _two_trees(rng, level + 1)
    taken = Line(f"obtain {_pattern(before)} := h1", f"Take {cited(_written(before, '∧'), 'h1')} apart.")
    paths = dict(_projections(before, "h1"))
    lines = (taken, Line(f"exact {_tuple(after)}", f"Hence {_written(after, '∧', 'and')}."))
    return Instance(
        names_of(letters, "Prop"), (_written(before, "∧"),), _written(after, "∧"), lines, ((f"exact {_tuple(after, paths)}",),)
    )


def disjunctions(source: Theorems, rng: random.Random, level: int) -> Instance:
    """A disjunction of `level` + 1 propositions in one arrangement gives that in another: one case for each."""
    letters, before, after = _two_trees(rng, level + 1)
    ways = dict(_injections(after))
    order = _leaves(before)
    lines = [Line(f"rcases h1 with {_cases(before)}", f"Take the cases of {cited(_written(before, '∨'), 'h1')}.")]
    lines += [Line(f"· exact {_applied(ways[letter], 'k' + letter)}", _side_of(letter, ways[letter])) for letter in order]
    other = f"exact {_eliminated(before, 'h1', ways)}"
    return Instance(names_of(letters, "Prop"), (_written(before, "∨"),), _written(after, "∨"), tuple(lines), ((other,),))


def _two_trees(rng: random.Random, count: int) -> tuple[list[str], Tree, Tree]:
    letters = list(PROPOSITIONS[:count])
    before = _tree(rng, letters)
    after = _tree(rng, rng.sample(letters, count))
    return (letters, before, after) if after != before else _two_trees(rng, count)


def _tree(rng: random.Random, letters: list[str]) -> Tree:
    if len(letters) == 1:
        return letters[0]
    cut = rng.randrange(1, len(letters))
    return _tree(rng, letters[:cut]), _tree(rng, letters[cut:])


def _written(tree: Tree, sign: str, word: str | None = None) -> str:
    """Return a tree as Lean writes it; with brackets on the left, since connectives lean to the right."""
    if isinstance(tree, str):
        return tree
    left, right = _written(tree[0], sign, word), _written(tree[1], sign, word)
    return f"({left}) {word or sign} {right}" if isinstance(tree[0], tuple) else f"{left} {word or sign} {right}"


def _leaves(tree: Tree) -> list[str]:
    return [tree] if isinstance(tree, str) else [*_leaves(tree[0]), *_leaves(tree[1])]


def _side_of(letter: str, rules: list[str]) -> str:
    """Say where a letter stands in a disjunction that it proves."""
    sides = ["left" if rule == "Or.inl" else "right" for rule in rules]
    return f"If {letter}, it stands {', then '.join(sides)}."


def _pattern(tree: Tree) -> str:
    """Return the pattern that takes a conjunction apart, naming what says p `kp`."""
    return f"k{tree}" if isinstance(tree, str) else f"⟨{_pattern(tree[0])}, {_pattern(tree[1])}⟩"


def _tuple(tree: Tree, terms: dict[str, str] | None = None) -> str:
    """Return the term of a conjunction from terms of its parts."""
    if isinstance(tree, str):
        return terms[tree] if terms else f"k{tree}"
    return f"⟨{_tuple(tree[0], terms)}, {_tuple(tree[1], terms)}⟩"


def _projections(tree: Tree, term: str) -> list[tuple[str, str]]:
    """Return for each letter the term that takes it out of a conjunction."""
    if isinstance(tree, str):
        return [(tree, term)]
    return [*_projections(tree[0], f"{term}.1"), *_projections(tree[1], f"{term}.2")]


def _injections(tree: Tree) -> list[tuple[str, list[str]]]:
    """Return for each letter the rules, outermost first, that lead from it to a disjunction."""
    if isinstance(tree, str):
        return [(tree, [])]
    sides = (("Or.inl", tree[0]), ("Or.inr", tree[1]))
    return [(letter, [rule, *rules]) for rule, side in sides for letter, rules in _injections(side)]


def _applied(rules: list[str], term: str) -> str:
    for number, rule in enumerate(reversed(rules)):
        term = f"{rule} {term}" if number == 0 else f"{rule} ({term})"
    return term


def _cases(tree: Tree) -> str:
    """Return the pattern that splits a disjunction into its cases."""
    if isinstance(tree, str):
        return f"k{tree}"
    left = _cases(tree[0])
    return f"{f'({left})' if isinstance(tree[0], tuple) else left} | {_cases(tree[1])}"


def _eliminated(tree: Tree, term: str, ways: dict[str, list[str]]) -> str:
    """Return the term that goes through the cases of a disjunction."""
    if isinstance(tree, str):
        return _applied(ways[tree], term)
    arms = [f"(fun {_bound_name(side)} => {_eliminated(side, _bound_name(side), ways)})" for side in tree]
    return f"Or.elim {term} {' '.join(arms)}"


def _bound_name(tree: Tree) -> str:
    return "k" + "".join(_leaves(tree))


def iff_chain(source: Theorems, rng: random.Random, level: int) -> Instance:
    """`level` + 1 equivalences, each written in either direction, by which the first proposition is equivalent to the last."""
    letters = list(PROPOSITIONS[: level + 2])
    return _rewritten(rng, letters, "Prop", "↔", lambda letter: letter, "exact {}")


def rewrite_chain(source: Theorems, rng: random.Random, level: int) -> Instance:
    """`level` + 1 equations, each written in either direction, by which a function has one value at the first and the last."""
    letters = alphabet(rng, [letters for letters in source.alphabets if not set("fg") & set(letters[: level + 2])], level + 2)
    around = rng.choice(["{}", "f {}", "f {} + {}", "g (f {})"])
    functions = [name for name in "fg" if name in around]
    instance = _rewritten(
        rng, letters, "Nat", "=", lambda letter: around.replace("{}", letter), "exact {}" if around == "{}" else "rw [{}]"
    )
    used = names_of(functions, "Nat → Nat") if functions else ()
    return Instance((*instance.variables, *used), instance.hypotheses, instance.claim, instance.lines, instance.others)


def _rewritten(
    rng: random.Random, letters: list[str], kind: str, sign: str, around: Callable[[str], str], closing: str
) -> Instance:
    """Lead from the first letter to the last by rewriting with equations or equivalences that stand in random order."""
    links = []
    for one, other in pairwise(letters):
        forward = rng.random() < 0.5
        links.append((f"{one} {sign} {other}" if forward else f"{other} {sign} {one}", forward, one, other))
    hypotheses = rng.sample([link[0] for link in links], len(links))
    named = {says: f"h{number}" for number, says in enumerate(hypotheses, 1)}
    lines = [
        Line(
            f"rw [{'' if forward else '← '}{named[says]}]",
            f"Replace {one} by {other} with {cited(says, named[says])}{'' if forward else ' backwards'}.",
        )
        for says, forward, one, other in links
    ]
    term, *terms = [named[says] if forward else f"{named[says]}.symm" for says, forward, _, _ in links]
    for number, following in enumerate(terms):
        term = f"({term}).trans {following}" if number else f"{term}.trans {following}"
    claim = f"{around(letters[0])} {sign} {around(letters[-1])}"
    return Instance(names_of(letters, kind), tuple(hypotheses), claim, tuple(lines), ((closing.format(term),),))


def transported(source: Theorems, rng: random.Random, level: int) -> Instance:
    """Something has a property, and `level` rules lead from that to another: so something has that."""
    letters = list(PROPOSITIONS[: level + 1])
    start = f"∃ x, {letters[0]} x"
    rules = {new: f"∀ x, {old} x → {new} x" for old, new in pairwise(letters)}
    hypotheses = rng.sample([start, *rules.values()], level + 1)
    named = {says: f"h{number}" for number, says in enumerate(hypotheses, 1)}
    fact = Fact(f"{letters[0]} x", f"h{level + 2}", f"h{level + 2}")
    lines = [Line(f"obtain ⟨x, {fact.name}⟩ := {named[start]}", f"Let x have {cited(fact.says, fact.name)} with {named[start]}.")]
    for number, new in enumerate(letters[1:], level + 3):
        called = f"{named[rules[new]]} x"
        said = f"{cited(f'{new} x', f'h{number}')} from {cited(fact.says, fact.name)} with {named[rules[new]]}."
        lines.append(Line(f"have h{number} := {called} {fact.name}", said))
        fact = Fact(f"{new} x", f"h{number}", f"({called} {fact.term})")
    lines.append(Line(f"exact ⟨x, {fact.name}⟩", f"Hence {cited(fact.says, fact.name)} for this x."))
    nested = fact.term.replace(f"h{level + 2}", "k")
    other = f"exact {named[start]}.elim (fun x k => ⟨x, {nested}⟩)"
    return Instance(names_of(letters, "Nat → Prop"), tuple(hypotheses), f"∃ x, {letters[-1]} x", tuple(lines), ((other,),))
