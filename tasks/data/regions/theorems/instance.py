"""A theorem of Atlas before it is checked: its parts in Lean, each step beside the sentence that tells it.

Lean and words are made together, from the same structure, so that they cannot disagree. As in a paper, what is supposed or found
has a name, and a step names what it uses. Variables are single letters and the vocabulary is small: what is to be
learned is which lemma, which order and which witness, not spelling.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

_NAME = re.compile(r"(?<![\w.])[a-z]\d*(?!\w)")
_SYMBOL = re.compile(r"∀ ([a-z](?: [a-z])*),|∃ ([a-z](?: [a-z])*)(?: : \w+)?,|[∣∧∨→↔]")
_WORDS = {"∣": "divides", "∧": "and", "∨": "or", "→": "implies", "↔": "if and only if"}
_TYPES = {
    "Nat": ("a natural number", "natural numbers"),
    "Int": ("an integer", "integers"),
    "Prop": ("a proposition", "propositions"),
    "List Nat": ("a list of numbers", "lists of numbers"),
    "Nat → Nat": ("a function on the natural numbers", "functions on the natural numbers"),
    "Nat → Prop": ("a property of natural numbers", "properties of natural numbers"),
    "List Nat → Nat": ("a function from lists to numbers", "functions from lists to numbers"),
}


@dataclass(frozen=True)
class Line:
    """One line of a tactic block."""

    code: str
    """In Lean, with its indentation below that of the block."""
    said: str
    """What it does, as a sentence that names what it uses and what it finds, but no lemma and no tactic of Lean."""


@dataclass(frozen=True)
class Instance:
    """One theorem of a family."""

    variables: tuple[tuple[str, str], ...]
    """Letters, parted by blanks, and their type: `("a b", "Nat")`."""
    hypotheses: tuple[str, ...]
    """Propositions, which are called h1, h2 and so on."""
    claim: str
    lines: tuple[Line, ...]
    """The proof that is learned."""
    others: tuple[tuple[str, ...], ...]
    """Lines of further proofs."""

    def statement(self, name: str) -> str:
        """Return the statement in Lean, up to `:=`."""
        binders = [f"({letters} : {kind})" for letters, kind in self.variables]
        binders += [f"(h{number} : {claim})" for number, claim in enumerate(self.hypotheses, 1)]
        return " ".join(["theorem", name, *binders, ":", self.claim, ":="])

    def told(self) -> str:
        """Return the statement in words."""
        sentences = [f"Let {listed(letters.split())} be {_named(letters, kind)}." for letters, kind in self.variables]
        if self.hypotheses:
            named = [cited(claim, f"h{number}") for number, claim in enumerate(self.hypotheses, 1)]
            sentences.append(f"Suppose {listed(named)}.")
        return " ".join([*sentences, f"{'Then' if sentences else 'Show'} {in_words(self.claim)}."])

    def told_proof(self) -> str:
        """Return the proof in words."""
        return " ".join(line.said for line in self.lines if line.said)

    def proofs(self) -> Iterator[str]:
        """Yield every proof as what follows `:=`, the one that is learned first."""
        for lines in (tuple(line.code for line in self.lines), *self.others):
            yield "\n".join(["by", *(f"  {line}" for line in lines)])

    def commented(self) -> str:
        """Return the proof that is learned, each step below the sentence that tells it."""
        rows = ["by"]
        for line in self.lines:
            indent = "  " + " " * (len(line.code) - len(line.code.lstrip()))
            rows += [f"{indent}-- {line.said}"] * bool(line.said) + [f"  {line.code}"]
        return "\n".join(rows)

    def form(self) -> str:
        """Return what is left of the statement without the names of variables and hypotheses and the order of the variables.

        Two instances of one form state the same up to renaming.
        """
        text = " ; ".join([*self.hypotheses, self.claim])
        order = dict.fromkeys(_NAME.findall(text))
        names = {name: f"v{number}" for number, name in enumerate(order)}
        kinds = sorted(f"{names.get(letter, '_')} : {kind}" for letters, kind in self.variables for letter in letters.split())
        return " ; ".join([*kinds, _NAME.sub(lambda match: names[match[0]], text)])


@dataclass(frozen=True)
class Fact:
    """Something known in a derivation."""

    says: str
    name: str
    """What it is called in the proof."""
    term: str
    """A term that proves it from the hypotheses alone."""


class Derivation:
    """A proof that goes forward: each step names what a rule gives from facts known by then."""

    def __init__(self, rng: random.Random, hypotheses: list[str]) -> None:
        """Begin with the hypotheses, in random order."""
        self.hypotheses = rng.sample(hypotheses, len(hypotheses))
        self.given = {says: Fact(says, f"h{number}", f"h{number}") for number, says in enumerate(self.hypotheses, 1)}
        self.steps: list[Line] = []
        self.last: Fact | None = None

    def apply(self, rule: str, *arguments: Fact | str, says: str, by: str = "", how: str = "") -> Fact:
        """Add the step `rule arguments`, which says `says`; arguments that are no facts are written as they are.

        `by` is the name of the fact that is the rule, if one is, and `how` what is done, both for the words.
        """
        facts = [argument for argument in arguments if isinstance(argument, Fact)]
        called = [argument.name if isinstance(argument, Fact) else argument for argument in arguments]
        nested = [argument.term if isinstance(argument, Fact) else argument for argument in arguments]
        name = f"h{len(self.hypotheses) + len(self.steps) + 1}"
        sources = listed([cited(fact.says, fact.name) for fact in facts])
        said = f"{cited(says, name)}{how} from {sources}{f' with {by}' if by else ''}."
        self.steps.append(Line(f"have {name} := {' '.join([rule, *called])}", said))
        self.last = Fact(says, name, f"({' '.join([rule, *nested])})")
        return self.last

    def instance(self, variables: tuple[tuple[str, str], ...]) -> Instance:
        """Return the theorem of the last fact: its steps, and beside them one term for all."""
        assert self.last, "a derivation has a step"
        *before, last = self.steps
        said = f"Hence {last.said.removeprefix(f'{self.last.name} : ')}"  # what was to be shown needs no name
        lines = (*before, Line(f"exact {last.code.partition(' := ')[2]}", said))
        other = (f"exact {self.last.term[1:-1]}",) if before else (last.code, f"exact {self.last.name}")
        return Instance(variables, tuple(self.hypotheses), self.last.says, lines, (other,))


def listed(items: list[str]) -> str:
    """Join with commas and a last `and`."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else items[0]


def cited(claim: str, name: str) -> str:
    """Return a proposition in words with its name."""
    return f"{name} : {in_words(claim)}"


def in_words(claim: str) -> str:
    """Return a proposition with words for the symbols of logic."""
    return _SYMBOL.sub(_word, claim)


def alphabet(rng: random.Random, alphabets: list[str], count: int) -> list[str]:
    """Return the first `count` letters of one of the alphabets that have as many."""
    return list(rng.choice([letters for letters in alphabets if len(letters) >= count])[:count])


def names_of(letters: list[str], kind: str) -> tuple[tuple[str, str], ...]:
    """Return letters of one type as variables."""
    return ((" ".join(letters), kind),)


def _named(letters: str, kind: str) -> str:
    return _TYPES[kind][len(letters.split()) > 1]


def _word(match: re.Match[str]) -> str:
    if match[1]:
        return f"for all {match[1]},"
    if match[2]:
        return f"there {'are' if ' ' in match[2] else 'is'} {listed(match[2].split())} with"
    return _WORDS[match[0]]
