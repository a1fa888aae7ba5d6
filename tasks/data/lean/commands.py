"""A Lean file as its commands, each with its prefix, its scope and the tokens it owns.

Lean's grammar grows with every import, so no fixed grammar can parse a file. What holds in all of them is used instead: the
words that begin a declaration or a scope are reserved, brackets nest, and a line that begins at the margin with another
word begins a command too. A word at the margin that is not known becomes a command of its own, never part of a proof.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import compress, count

from tasks.data.lean import scopes
from tasks.data.lean.scopes import Scope
from tasks.runtime.lean.lexer import Kind, Lexed, is_blank, kind
from tasks.runtime.lean.words import (
    CLOSERS,
    CLOSING,
    CONTINUATIONS,
    DEFINITIONS,
    EXPECTANT,
    KNOWN,
    LOCAL,
    MODIFIERS,
    RESERVED,
    SCOPES,
    THEOREMS,
)

_BRACKETS = frozenset(CLOSERS) | CLOSING
_PLAIN_OPENER = {")": "(", "}": "{", "⟩": "⟨", "⦄": "⦃"}
_WATCHED = _BRACKETS | RESERVED | LOCAL
_DEEPEST = 16
"""How many open brackets a closing one may close at once: beyond that it is taken for a stray one."""
_SIGNS = {"(": "(", ")": ")", "[": "[", "#[": "[", "]": "]", "{": "{", "}": "}", "⟨": "⟨", "⟩": "⟩", "⦃": "⦃", "⦄": "⦄"}
"""The brackets that only group, each as one character."""
_PAIR = r"\(\)|\[\]|\{\}|⟨⟩|⦃⦄"
_GROUP = re.compile(r"\((?:P)*+\)|\[(?:P)*+\]|\{(?:P)*+\}|⟨(?:P)*+⟩|⦃(?:P)*+⦄".replace("P", _PAIR))
"""Brackets, up to two deep, with nothing between them that matters."""
_LINE = re.compile(r"^[^\s|})\]⟩·-]", re.MULTILINE)
"""A line that begins at the margin, with what may begin a command."""


@dataclass(frozen=True)
class Command:
    """One command, as indices into the tokens of its file."""

    start: int
    """Its first token: a doc comment, attribute, modifier or `open ... in` before the keyword, or the keyword."""
    head: int
    """Its keyword; equal to `stop` when the file ends before one."""
    stop: int
    """One past the last token before the next command; blanks and comments at the end belong to nobody."""
    keyword: str
    scope: Scope | None
    """The innermost scope around it."""
    unbalanced: bool = False
    """Whether its brackets do not close before the next command begins."""


def split(source: Lexed) -> list[Command]:
    """Return the commands of a file in order; what stands before the first one are blanks, comments or stray tokens."""
    starts = _Splitter(source).starts()
    stops = [start.token for start in starts[1:]] + [len(source.tokens)]
    commands = []
    scope: Scope | None = None
    for start, stop in zip(starts, stops, strict=False):
        assert start.head is not None, "every head is known by now"
        head = min(start.head, stop)
        keyword = source.tokens[head] if head < stop else ""
        keyword = "/-!" if keyword.startswith("/-!") else keyword
        commands.append(Command(start.token, head, stop, keyword, scope, start.unbalanced))
        if keyword in SCOPES:
            scope = scopes.after(scope, keyword, read_name(source, commands[-1]))
    return commands


def read_name(source: Lexed, command: Command) -> str:
    """Return the name that follows the keyword of a command, as it stands there; empty for none."""
    first = first_code(source, command.head + 1, command.stop)
    return source.tokens[first] if first < command.stop and kind(source.tokens[first]) is Kind.NAME else ""


def code_after(source: Lexed, index: int, stop: int) -> Iterator[int]:
    """Yield the indices from `index` to before `stop` of tokens that are neither blanks nor comments."""
    tokens = source.tokens
    return (i for i in range(index, stop) if not is_blank(tokens[i]))


def first_code(source: Lexed, index: int, stop: int) -> int:
    """Return the index of the first token from `index` that is neither blank nor comment, or `stop`."""
    while index < stop and is_blank(source.tokens[index]):
        index += 1
    return index


def code_before(source: Lexed, index: int) -> int:
    """Return the index of the last token before `index` that is neither blank nor comment, or -1."""
    index -= 1
    while index >= 0 and is_blank(source.tokens[index]):
        index -= 1
    return index


@dataclass
class _Start:
    token: int
    head: int | None
    """Its keyword, or None while only its prefix has been seen."""
    unbalanced: bool = False
    at_margin: bool = False
    """Whether the lines of its body begin at the margin, so that words there begin no command."""


@dataclass
class _Splitter:
    """One pass over the tokens that can matter: brackets, keywords, block comments, and what stands first at the margin."""

    source: Lexed
    found: list[_Start] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    """Indices of the open brackets, innermost last."""
    lists: dict[int, int] = field(default_factory=dict)
    """Index of the `]` of an attribute list, or of `scoped[...]` -> index of its opening bracket."""
    locals_seen: list[int] = field(default_factory=list)
    """Indices of words like `open` outside brackets."""
    prefixes: dict[int, int] = field(default_factory=dict)
    """Index of a token that began a command -> where the prefix before it begins: no token is walked over twice."""

    def starts(self) -> list[_Start]:
        """Return where each command begins and its keyword stands."""
        tokens, opened = self.source.tokens, self.opened
        margin = self._margin()
        for index in self._telling(margin):
            token = tokens[index]
            if token in CLOSING:
                if opened and tokens[opened[-1]] == _PLAIN_OPENER.get(token):
                    opened.pop()
                else:
                    self._close(index)
                continue
            if (token not in CLOSERS or token == "@[") and self._begins(index, index in margin):
                self._begin(index)
            if token in CLOSERS:
                opened.append(index)
        self._begin_at_the_end()
        return [start for start in self.found if self._is_command(start)]

    def _telling(self, margin: set[int]) -> list[int]:
        """Return the indices of the tokens that can matter; four brackets of five only group, and are left out."""
        tokens = self.source.tokens
        watched = list(compress(count(), map(_WATCHED.__contains__, tokens)))
        others = margin.union(self.source.blocks)
        watched = sorted(watched + sorted(i for i in others if tokens[i] not in _WATCHED))
        signs = [_SIGNS.get(tokens[i], " ") for i in watched]
        if "scoped[" in self.source.text:
            signs = [" " if tokens[i - 1] == "scoped" else sign for i, sign in zip(watched, signs, strict=True)]
        kept, start = [], 0
        for group in _GROUP.finditer("".join(signs)):
            kept += watched[start : group.start()]
            start = group.end()
        return kept + watched[start:]

    def _margin(self) -> set[int]:
        """Return the indices of the tokens at the very beginning of a line."""
        starts = self.source.starts
        places = [match.start() for match in _LINE.finditer(self.source.text)]
        return {index for place in places if starts[index := bisect_left(starts, place)] == place}

    def _close(self, index: int) -> None:
        """Close the innermost bracket that `index` can close, and what stayed open within it; a stray closer is passed over."""
        tokens, opened = self.source.tokens, self.opened
        for back in range(1, min(len(opened), _DEEPEST) + 1):
            at = opened[-back]
            if CLOSERS[tokens[at]] == tokens[index]:
                del opened[-back:]
                if tokens[at] == "@[" or (at and tokens[at - 1] == "scoped"):
                    self.lists[index] = at
                return

    def _begins(self, index: int, at_margin: bool) -> bool:
        """Whether the token begins a command or is its keyword."""
        token = self.source.tokens[index]
        if self.opened:
            quoted = any(self.source.tokens[at] in ("`(", "`[") for at in self.opened[-_DEEPEST:])
            return at_margin and token in RESERVED and not quoted and self._stands_alone(index)
        if token in LOCAL:
            self.locals_seen.append(index)
        if token in RESERVED:
            return self._stands_alone(index)
        if at_margin:
            return self._begins_at_margin(index, token)
        if token in LOCAL:
            return not self._in_declaration() or (self._first_on_line(index) and not self._leads_to_in(index))
        return token.startswith("/-!")

    def _begins_at_margin(self, index: int, token: str) -> bool:
        if token.startswith("/--"):
            return not self._is_argument(index)
        if token == "@[" or token.startswith("/-!"):
            return True
        if token in CONTINUATIONS or not _is_word(token):
            return False
        if token in KNOWN or not self._in_declaration():
            return True
        if self.source.tokens[code_before(self.source, index)] in EXPECTANT:
            self.found[-1].at_margin = True
        return not self.found[-1].at_margin

    def _stands_alone(self, index: int) -> bool:
        """Whether a reserved word is a command's: not `deriving instance`, `(x).end` or `snip end`."""
        before = code_before(self.source, index)
        return before < 0 or self.source.tokens[before] not in (".", "deriving", "snip")

    def _first_on_line(self, index: int) -> bool:
        return "\n" in self.source.tokens[index - 1]

    def _in_declaration(self) -> bool:
        """Whether the command being read is one that may hold a proof."""
        if not self.found:
            return False
        if self.found[-1].head is None:
            self.found[-1].head = self._head(self.found[-1].token)
        head = self.found[-1].head
        return head < len(self.source.tokens) and self.source.tokens[head] in THEOREMS | DEFINITIONS

    def _leads_to_in(self, index: int) -> bool:
        """Whether `open`, `set_option` and their like end in `in`, so that inside a proof they belong to a tactic or term."""
        for i in code_after(self.source, index + 1, len(self.source.tokens)):
            token = self.source.tokens[i]
            if token == "in":
                return True
            if token in RESERVED or token in LOCAL or token == ":=":
                return False
        return False

    def _begin(self, index: int) -> None:
        """Note a command whose keyword, or first token, is `index`; it takes in the prefix that stands before it."""
        if self.opened and self.found:
            self.found[-1].unbalanced = True
        self.opened.clear()
        token = self.prefixes[index] = self._prefix(index)
        while self.found and self.found[-1].token >= token:
            self.found.pop()
        at_end = index == len(self.source.tokens)
        self.found.append(_Start(token, index if at_end or not _is_prefix(self.source.tokens[index]) else None))

    def _begin_at_the_end(self) -> None:
        """Note a prefix that the file ends in, so that it does not pass for part of the declaration before it."""
        end = len(self.source.tokens)
        if self.opened and self.found:
            self.found[-1].unbalanced = True
        elif self._prefix(end) < end:
            self._begin(end)

    def _prefix(self, index: int) -> int:
        """Return where the prefix of the keyword at `index` begins: docs, attributes, modifiers, `open ... in`."""
        tokens = self.source.tokens
        first = index
        while (before := code_before(self.source, first)) >= 0:
            token = tokens[before]
            if before in self.lists:
                first = self.lists[before]
            elif token.startswith("/--"):
                if self._is_argument(before):
                    break
                first = before
            elif token in MODIFIERS or (token == "class" and first == index):
                first = before
            elif token == "in" and (at := bisect_left(self.locals_seen, before)):
                first = self.locals_seen[at - 1]
            else:
                break
            first = self.prefixes.get(first, first)
        return first

    def _is_argument(self, doc: int) -> bool:
        """Whether a doc comment is what a command before it takes, not the beginning of the next one."""
        before = code_before(self.source, doc)
        if before >= 0 and self.source.tokens[before] == "blueprint_comment":
            return True
        before = code_before(self.source, before)
        return before >= 0 and self.source.tokens[before] == "library_note"

    def _head(self, index: int) -> int:
        """Return the keyword of the command that begins at `index`, passing over docs, attributes and modifiers."""
        tokens, depth = self.source.tokens, 0
        for i in code_after(self.source, index, len(tokens)):
            token = tokens[i]
            if token == "@[" or (token == "[" and tokens[i - 1] == "scoped") or (depth and token in CLOSERS):
                depth += 1
            elif depth:
                depth -= token in _BRACKETS
            elif not _is_prefix(token):
                return i
        return len(tokens)

    def _is_command(self, start: _Start) -> bool:
        """Whether what was taken for a command has a word for a keyword; else it goes on with the one before it."""
        if start.head is None:
            start.head = self._head(start.token)
        tokens = self.source.tokens
        return start.head >= len(tokens) or _is_word(tokens[start.head]) or tokens[start.head].startswith("/-!")


def _is_word(token: str) -> bool:
    """Whether a token can be the keyword of a command: a name, or like `#eval`."""
    return kind(token) is Kind.NAME or (token[0] == "#" and token[1:2].isalpha())


def _is_prefix(token: str) -> bool:
    return token in MODIFIERS or token == "@[" or token.startswith("/--")
