"""One declaration taken apart: its name, where its statement ends, where its proof does, and what its prefix says."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field

from tasks.data.lean.commands import Command, code_after, code_before, first_code
from tasks.runtime.lean.lexer import Kind, Lexed, kind
from tasks.runtime.lean.words import CLOSERS, CLOSING, LOCAL, MODIFIERS

_BINDERS = frozenset({"let", "have", "letI", "haveI", "let_fun"})
"""Words that bring a `:=` of their own into a statement."""
_STRUCTURE = _BINDERS | {":=", "where", "match", "|"}
_DECISIVE = frozenset({"=>", ":=", "fun", "λ", "match"})


@dataclass(frozen=True)
class Body:
    """Where the parts of a declaration end, as token indices."""

    statement_stop: int
    """One past `:=`, or past the last token of the type where the proof begins with `|` or `where`."""
    proof: int
    """First token of the proof."""
    stop: int
    """One past the last token that belongs to the proof."""


@dataclass
class Prefix:
    """What stands before a keyword."""

    docstring: str | None = None
    informal_statement: str | None = None
    informal_proof: str | None = None
    modifiers: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)


def read_body(source: Lexed, command: Command) -> Body | None:
    """Return where the statement and the proof of a theorem end, or None when it has no proof."""
    found = _statement_end(source, command)
    if found is None:
        return None
    statement_stop, proof = found
    last = code_before(source, command.stop)
    if last < proof or (last == proof and source.tokens[proof] in ("by", "where", "|")):
        return None
    return Body(statement_stop, proof, own_stop(source, command))


def own_stop(source: Lexed, command: Command) -> int:
    """Return one past the last token of a command: its last code, and comments behind it on that line or indented more."""
    stop = code_before(source, command.stop) + 1
    for index in range(stop, command.stop):
        if kind(source.tokens[index]) is Kind.COMMENT:
            same_line = source.text.find("\n", source.starts[stop], source.starts[index]) < 0
            if not same_line and _column(source, index) <= _column(source, command.start):
                break
            stop = index + 1
    return stop


def read_prefix(source: Lexed, command: Command) -> Prefix:
    """Return the docs, annotations, attributes and modifiers before the keyword of a command."""
    prefix, tokens = Prefix(), source.tokens
    index = command.start
    while index < command.head:
        token = tokens[index]
        stop = index + 1
        if token.startswith("/--"):
            prefix.docstring = doc_text(token)
        elif token == "@[":
            stop = _bracket_stop(source, index, command.head)
            _read_attributes(source, index + 1, stop - 1, prefix)
        elif token in LOCAL:
            stop = next(i for i in code_after(source, index, command.head) if tokens[i] == "in") + 1
            prefix.opened.append(source.text[source.starts[index] : source.starts[stop]])
        elif token in MODIFIERS:
            prefix.modifiers.append(token)
        index = stop
    if command.scope and command.scope.opened_by == "mutual":
        prefix.modifiers.append("mutual")
    return prefix


def doc_text(token: str) -> str:
    """Return what a documentation comment says, without its marks and common indentation."""
    return inspect.cleandoc(token[3:-2]).strip()


def _statement_end(source: Lexed, command: Command) -> tuple[int, int] | None:
    """Return where the statement stops and where the proof begins."""
    tokens = source.tokens
    binders, by_cases, decided = 0, False, (-1, False)
    for index in _outside_brackets(source, command.head + 1, command.stop, _STRUCTURE):
        token = tokens[index]
        if token in _BINDERS:
            binders += 1
        elif token == ":=" and binders:
            binders -= 1
        elif token == ":=":
            return index + 1, first_code(source, index + 1, command.stop)
        elif token == "where":
            return code_before(source, index) + 1, index
        elif token == "match":
            by_cases = True
        elif token == "|" and not by_cases:
            if tokens[code_before(source, index)] in ("fun", "λ"):
                by_cases = True
                continue
            if decided[0] < index:
                decided = _alternatives(source, index + 1, command.stop)
            if decided[1]:
                return code_before(source, index) + 1, index
    return None


def _alternatives(source: Lexed, index: int, stop: int) -> tuple[int, bool]:
    """Tell whether `|` begins the cases of a proof (`| 0 => ...`) or is one of the bars of `|x|`, and up to where that holds."""
    first = next(_outside_brackets(source, index, stop, _DECISIVE), stop)
    return first, first < stop and source.tokens[first] == "=>"


def _outside_brackets(source: Lexed, index: int, stop: int, among: frozenset[str]) -> Iterator[int]:
    """Yield the indices of those tokens `among` the given ones that are not within brackets."""
    tokens, depth = source.tokens, 0
    for i in range(index, stop):
        token = tokens[i]
        if token in CLOSERS:
            depth += 1
        elif token in CLOSING:
            depth = max(0, depth - 1)
        elif not depth and token in among:
            yield i


def _bracket_stop(source: Lexed, index: int, stop: int) -> int:
    """Return one past the bracket that closes the one at `index`."""
    depth = 0
    for i in code_after(source, index, stop):
        depth += (source.tokens[i] in CLOSERS) - (source.tokens[i] in CLOSING)
        if not depth:
            return i + 1
    return stop


def _column(source: Lexed, index: int) -> int:
    start = source.starts[index]
    return start - (source.text.rfind("\n", 0, start) + 1)


def _read_attributes(source: Lexed, index: int, stop: int, prefix: Prefix) -> None:
    """Read an attribute list between its brackets."""
    commas = list(_outside_brackets(source, index, stop, frozenset(",")))
    for first, last in zip([index, *(comma + 1 for comma in commas)], [*commas, stop], strict=True):
        words = [source.tokens[i] for i in code_after(source, first, last)]
        if words[:1] == ["blueprint"]:
            prefix.attributes.append("blueprint")
            prefix.informal_statement = _annotation(words, "statement")
            prefix.informal_proof = _annotation(words, "proof")
        elif words:
            prefix.attributes.append(" ".join(source.text[source.starts[first] : source.starts[last]].split()))


def _annotation(words: list[str], key: str) -> str | None:
    """Return the text of `(key := /-- text -/)` among the code tokens of an attribute."""
    for opener, name, becomes, value in zip(words, words[1:], words[2:], words[3:], strict=False):
        if (opener, name, becomes) == ("(", key, ":=") and value.startswith("/--"):
            return doc_text(value) or None
    return None
