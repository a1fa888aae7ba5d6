"""What a proof may say, decided from its text before Lean is asked.

The statement must be the given one, blanks and comments aside, and what follows may hold only what a proof needs: no command,
no attribute, no option, no program that runs while Lean reads it, no word that closes a goal without proving it. Comments are
passed over, so `-- no sorry needed` is no offence. Lean's environment is looked at afterwards all the same; this rule is why
a candidate says its own theorem and nothing else.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.prove.checker import Candidate, Reason
from tasks.runtime.lean.lexer import Kind, Lexed, is_blank, kind, lex
from tasks.runtime.lean.words import CLOSERS, CLOSING, DEFINITIONS, LOCAL, MODIFIERS, PLUMBING, THEOREMS

RULES_VERSION = 2
"""Raise it with every change to what is refused or looked at: verdicts given under other rules are then asked for anew."""
LONGEST = 100_000
"""Characters of the longest candidate."""
DEEPEST = 200
"""Brackets within brackets: at some thousands Lean's parser runs out of stack and dies."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HOLES = _words("sorry admit sorryAx")
_AXIOMS = _words("axiom constant ofReduceBool ofReduceNat trustCompiler native_decide native bv_decide")
"""Words that bring in an axiom: one of the candidate's own, or the compiler's word for a result."""
_PROGRAMS = _words("""
    unsafe implemented_by extern run_tac run_cmd run_elab run_meta by_elab eval% include_str include_bytes dbg_trace dbgTrace
    unsafeCast unsafePerformIO unsafeIO unsafeBaseIO lcProof lcUnreachable lcAny reduceBool reduceNat csimp panic!""")
"""Words that run a program, read a file, or tell the compiler something it believes."""
_SEARCHES = _words("exact? apply? rw? rw_search hint try? says")
"""Tactics that look for a proof instead of giving one, and admit the goal when they find none."""
_OTHERS_WORDS = _words("problem snip determine recall")
"""Commands of single collections: in a proof they are names like any other."""
_COMMANDS = (DEFINITIONS | PLUMBING | LOCAL | THEOREMS | MODIFIERS) - _OTHERS_WORDS
_ANYWHERE = _HOLES | _AXIOMS | _PROGRAMS
"""Forbidden as any part of a dotted name too; the others only as words of their own."""
_BEFORE_THEOREM = _words("protected nonrec noncomputable")
_BRACKET_MARKS = frozenset("⟨⟩⦃⦄‹›⟪⟫⌊⌋⌈⌉‖")
_MARKS = frozenset("""!"$%&'()*+,-./:;<=>?@[\\]^_{|}~λΠΣ·•…⁻ᵀᶜ²³¹₀×÷¬±∣▸◦†ₗ""") | _BRACKET_MARKS
"""Characters of symbols that a proof may hold, beside those that Unicode counts as mathematical."""


@dataclass(frozen=True)
class Refusal:
    """Why a text is no proof of its statement, and where."""

    reason: Reason
    detail: str
    position: tuple[int, int] | None
    """Line, from 1, and column, from 0, in the candidate's proof."""


def refusal(candidate: Candidate) -> Refusal | None:
    """Return why the text of a candidate is turned away, or None when Lean may be asked."""
    statement, proof = lex(candidate.statement), lex(candidate.proof)
    for source, what in ((statement, "statement"), (proof, "proof")):
        if source.fault:
            return Refusal("malformed", f"the {what} is cut off: {source.fault.reason}", place(source, source.fault.position))
    if len(proof.text) > LONGEST:
        return Refusal("malformed", f"the proof is longer than {LONGEST:,} characters", None)
    given = _shape(statement)
    if fault := _statement_fault(candidate, given):
        return Refusal("malformed", fault, None)
    indices = list(_significant(proof))
    said = _shape(proof)
    for number, (want, have) in enumerate(zip(given, said, strict=False)):
        if want != have:
            detail = f"the proof says {have[1]!r} where the statement has {want[1]!r}"
            return Refusal("statement_changed", detail, place(proof, proof.starts[indices[number]]))
    if len(said) <= len(given):
        reason: Reason = "malformed" if len(said) == len(given) else "statement_changed"
        return Refusal(reason, "nothing follows the statement", None)
    return _body_refusal(proof, indices[len(given) :])


def place(source: Lexed, offset: int) -> tuple[int, int]:
    """Return line, from 1, and column, from 0, of an offset in the text, as Lean counts them."""
    line = source.text.count("\n", 0, offset)
    return line + 1, offset - (source.text.rfind("\n", 0, offset) + 1)


def declared_name(candidate: Candidate) -> str:
    """Return the name that follows `theorem` in the statement; the text has passed `refusal`."""
    words = [token for _, token in _shape(lex(candidate.statement))]
    return words[_keyword(words) + 1]


def _significant(source: Lexed) -> Iterator[int]:
    """Yield the indices of the tokens that are neither blanks nor comments."""
    return (index for index, token in enumerate(source.tokens) if not is_blank(token))


def _shape(source: Lexed) -> list[tuple[bool, str]]:
    """Return each token that Lean does not pass over, and whether a blank or comment stands before it: `f (x)` is not `f(x)`."""
    shape: list[tuple[bool, str]] = []
    gap = False
    for token in source.tokens:
        if is_blank(token):
            gap = bool(shape)
        else:
            shape.append((gap, token))
            gap = False
    return shape


def _keyword(words: list[str]) -> int:
    """Return the index of `theorem` or `lemma` behind documentation, attributes and modifiers, or -1."""
    depth = 0
    for index, word in enumerate(words):
        if word == "@[" or depth:
            depth += (word in CLOSERS) - (word in CLOSING)
        elif word in ("theorem", "lemma"):
            return index
        elif word not in _BEFORE_THEOREM and kind(word) is not Kind.DOC:
            return -1
    return -1


def _statement_fault(candidate: Candidate, shape: list[tuple[bool, str]]) -> str | None:
    """Return what keeps a statement from being one, or None. Its content is the data's affair, its form is ours."""
    words = [token for _, token in shape]
    keyword = _keyword(words)
    if keyword < 0:
        return "the statement must begin with `theorem`"
    if keyword + 1 >= len(words) or words[keyword + 1] != candidate.name:
        return f"the statement does not name {candidate.name!r}"
    if words[-1] != ":=":
        return "the statement must end with `:=`"
    body = words[keyword + 1 :]
    if bad := next((word for word in body if kind(word) is not Kind.SYMBOL and _reason(word) is not None), None):
        return f"the statement holds {bad!r}"
    return _unbalanced(body)


def _body_refusal(proof: Lexed, indices: list[int]) -> Refusal | None:
    """Return what a proof behind its statement must not hold, or None."""
    for index in indices:
        token = proof.tokens[index]
        if (reason := _reason(token)) is not None:
            return Refusal(reason, f"a proof must not hold {_shown(token)}", place(proof, proof.starts[index]))
    if fault := _unbalanced([proof.tokens[index] for index in indices]):
        return Refusal("malformed", f"the proof is unbalanced: {fault}", None)
    return None


def _reason(token: str) -> Reason | None:
    """Return why a token may not stand in a proof, or None when it may."""
    what = kind(token)
    if what is Kind.NAME:
        parts = {part.strip("«»") for part in token.split(".")}
        for words, reason in _BY_REASON:
            if parts & words:
                return reason
        return "forbidden_word" if token.strip("«»") in _COMMANDS | _SEARCHES else None
    if what is Kind.SYMBOL:
        return None if token not in ("@[", "#[") and all(map(_is_mark, token)) else "forbidden_word"
    return "forbidden_word" if what in (Kind.QUOTED_NAME, Kind.DOC, Kind.MODULE_DOC) else None


_BY_REASON: tuple[tuple[frozenset[str], Reason], ...] = (
    (_HOLES, "sorry"),
    (_AXIOMS, "axiom"),
    (_PROGRAMS, "forbidden_word"),
)


def _is_mark(character: str) -> bool:
    return character in _MARKS or (ord(character) > 127 and unicodedata.category(character) == "Sm")


def _shown(token: str) -> str:
    """Return a token as it can be told from its look-alikes."""
    if len(token) == 1 and ord(token) > 127:
        return f"{token!r} ({unicodedata.name(token, 'unnamed character')})"
    return f"`{token if len(token) < 40 else token[:40] + '...'}`"


def _unbalanced(words: list[str]) -> str | None:
    """Return which bracket has no partner, or None: an open one would go on into what follows."""
    opened: list[str] = []
    for word in words:
        if word in CLOSERS:
            opened.append(word)
            if len(opened) > DEEPEST:
                return f"brackets nest deeper than {DEEPEST}"
        elif word in CLOSING and (not opened or CLOSERS[opened.pop()] != word):
            return f"`{word}` closes nothing"
    return f"`{opened[-1]}` never closes" if opened else None
