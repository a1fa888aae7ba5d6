"""Lean 4 surface syntax as tokens, by Lean's own rules: what every question about a Lean file is asked of.

A regular expression over raw text takes `--` in a string for a comment and `theorem` in a comment for a theorem. Here one
expression cuts plain code into tokens at the speed of C, and is stopped where tokens nest and no expression can follow:
block comments, raw strings, strings with holes. The tokens joined are the text, so nothing can be lost. Which words are
reserved depends on a file's imports, so words stay words and their readers decide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate

_LETTERS = "A-Za-z_À-ÖØ-öø-ſΑ-ΟΡΤ-Ωα-κμ-ωϊ-ϻἀ-῾℀-⅏\U0001d49c-\U0001d59f"
_SUBSCRIPTS = "₀-₉ₐ-ₜᵢ-ᵪⱼ"
_PLAIN_PART = rf"[{_LETTERS}][{_LETTERS}{_SUBSCRIPTS}0-9'!?]*+"
_GUARDED_PART = r"«[^«»\n]*+»?"
_MORE_PARTS = rf"(?:\.(?:{_PLAIN_PART}|{_GUARDED_PART}))*+"
_CHARACTER = r"'(?<![^\x00-\x7f⟨⟪⦃⟦‹←→↦·]')(?:\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^xu])|[^\\'\n])'"
_MOST_HASHES = 8
_RAW_STRING = "|".join(rf'#{{{n}}}"(?:[^"]++|"(?!#{{{n}}}))*+(?:"#{{{n}}})?' for n in range(_MOST_HASHES + 1))
"""What follows the r, for each number of hashes: a group that remembers the number would cost every token."""
# Each alternative but the last begins with a character or a set of them: so the engine passes over it in one look.
_TOKEN = re.compile(
    "|".join(
        [
            r"[ \t\r\n]+",
            rf'r(?=[#"])(?:{_RAW_STRING})',
            _PLAIN_PART + _MORE_PARTS,
            _GUARDED_PART + _MORE_PARTS,
            r"[()\[\]{},;*+/^\\≤≥∈→∀∃∧∨⟨⟩]",
            r"0[xX][0-9a-fA-F_]+|0[bBoO][0-7_]+|[0-9][0-9_]*+(?:\.[0-9][0-9_]*+)?(?:[eE][+-]?[0-9]++)?",
            r"--[^\n]*+",
            r'"(?:[^"\\]++|\\.?)*+"?',
            r":=|=>|\|\|\|?|\|>\.?|<\|>?|@\[|#\[|<-|->|\.\.\.?|''",
            _CHARACTER,
            rf"``?(?:{_PLAIN_PART}|{_GUARDED_PART}){_MORE_PARTS}|`[(\[]|#[a-z_]++",
            r".",
        ]
    ),
    re.DOTALL,
)
_MARK = re.compile(r'/-|"')
_BEFORE_STRING = re.compile(r"(?:[A-Za-z]!|throwError|logInfo|logWarning|logError|dbg_trace) *+\Z")
"""What stands before the quote of a string with holes."""
_BEFORE_STRING_LENGTH = 40
_COMMENT_EDGE = re.compile(r"/-|-/")
_STRING_PIECE = re.compile(r'(?:[^"\\{]++|\\.?)*+', re.DOTALL)
_RAW_START = re.compile(r'r(#*)"')


class Kind(Enum):
    """What a token is."""

    SPACE = "space"
    COMMENT = "comment"
    """`--` to the end of the line, or `/- -/`, which nests. Lean reads it as white space."""
    DOC = "doc"
    """`/-- -/`. For Lean a token, not white space: it stands before a declaration, a field or a constructor."""
    MODULE_DOC = "module doc"
    """`/-! -/`. For Lean a command of its own."""
    STRING = "string"
    CHARACTER = "character"
    NUMBER = "number"
    NAME = "name"
    """A dotted name or a keyword."""
    QUOTED_NAME = "quoted name"
    """`` `x`` or ``` ``x ```: a name as data."""
    SYMBOL = "symbol"


@dataclass(frozen=True)
class Fault:
    """The place where a text stops being Lean: a comment or string that never closes."""

    position: int
    """Offset in the text, in characters."""
    reason: str


@dataclass(frozen=True)
class Lexed:
    """A text and its tokens."""

    text: str
    tokens: Sequence[str]
    """Joined they are the text."""
    starts: Sequence[int]
    """Offset of each token in the text, in characters, and one more: the length of the text."""
    blocks: Sequence[int]
    """Indices of the tokens that are block comments of any kind, ascending."""
    fault: Fault | None
    """What never closes; the last token then runs to the end of the text."""


def lex(text: str) -> Lexed:
    """Cut a text into tokens, in linear time. No text is refused: what Lean would refuse is in `fault` or a lone symbol."""
    tokens: list[str] = []
    blocks: list[int] = []
    position, fault = 0, None
    for mark in _MARK.finditer(text):
        start = mark.start()
        if start < position or (mark[0] == '"' and not _has_holes(text, start)):
            continue
        position = _plain(text, position, start, tokens)
        if position > start:
            continue
        if text.startswith("/-", start):
            blocks.append(len(tokens))
        end, reason = _nested_end(text, start)
        tokens.append(text[start:end])
        position, fault = end, Fault(start, reason) if reason else None
    _plain(text, position, len(text), tokens)
    starts = list(accumulate(map(len, tokens), initial=0))
    if tokens and not fault and (reason := _never_closes(tokens[-1])):
        fault = Fault(starts[-2], reason)
    return Lexed(text, tokens, starts, blocks, fault)


def kind(token: str) -> Kind:
    """Say what a token is, from its text alone."""
    first = token[0]
    if first in " \n\t\r":
        return Kind.SPACE
    if first == '"' or (first == "r" and token[1:2] in ('"', "#")):
        return Kind.STRING
    if _NAME_START.match(first):
        return Kind.NAME
    if token.startswith("--"):
        return Kind.COMMENT
    if token.startswith("/-"):
        return {"-": Kind.DOC, "!": Kind.MODULE_DOC}.get(token[2:3], Kind.COMMENT)
    if first == "'" and len(token) > 2:
        return Kind.CHARACTER
    if first in "0123456789":
        return Kind.NUMBER
    return Kind.QUOTED_NAME if first == "`" and token not in ("`", "`(", "`[") else Kind.SYMBOL


_NAME_START = re.compile(f"[{_LETTERS}«]")


def is_blank(token: str) -> bool:
    """Whether Lean reads a token as white space: blanks, and comments that are no documentation."""
    first = token[0]
    if first in " \n\t\r":
        return True
    return first in "-/" and (token.startswith("--") or (token.startswith("/-") and token[2:3] not in ("-", "!")))


def _plain(text: str, start: int, stop: int, tokens: list[str]) -> int:
    """Append the tokens of `text[start:stop]` and return where they end: later than `stop` if it lies inside the last one."""
    found = _TOKEN.findall(text, start, stop)
    if found and stop < len(text):
        last = stop - len(found[-1])
        match = _TOKEN.match(text, last)
        assert match, "every character begins a token"
        found[-1], stop = match[0], match.end()
    tokens += found
    return stop


def _has_holes(text: str, quote: int) -> bool:
    """Whether what stands before the quote at `quote` makes the string one with holes; within a token it means nothing."""
    return _BEFORE_STRING.search(text, max(0, quote - _BEFORE_STRING_LENGTH), quote) is not None


def _never_closes(token: str) -> str | None:
    """Return what is wrong with the last token of a text, if it is a string without its end."""
    if raw := _RAW_START.match(token):
        end = '"' + raw[1]
        return None if token.endswith(end) and len(token) >= raw.end() + len(end) else "raw string never closes"
    if not token.startswith('"'):
        return None
    body = token[1:-1]
    escaped = (len(body) - len(body.rstrip("\\"))) % 2
    return None if len(token) > 1 and token[-1] == '"' and not escaped else "string never closes"


def _nested_end(text: str, start: int) -> tuple[int, str | None]:
    """Return where the nesting token at `start` ends, and what is wrong if it never does."""
    if text.startswith("/-", start):
        return _comment_end(text, start)
    return _interpolated_end(text, start)


def _comment_end(text: str, start: int) -> tuple[int, str | None]:
    """Return where a block comment ends. Lean passes over the character behind `/-` unread, so `/-/` opens nothing more."""
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, start + 3):
        depth += 1 if edge[0] == "/-" else -1
        if not depth:
            return edge.end(), None
    return len(text), "comment never closes"


def _interpolated_end(text: str, start: int) -> tuple[int, str | None]:
    """Return where a string with holes ends; a hole `{...}` holds any code, strings with holes among it."""
    position = start + 1
    holes: list[int] = []
    """Braces open in each hole around `position`; -1 for the string inside a hole."""
    while position < len(text):
        if holes and holes[-1] >= 0:
            position = _hole_step(text, position, holes)
            continue
        piece = _STRING_PIECE.match(text, position)
        assert piece, "an empty piece matches"
        position = piece.end() + 1
        if text[piece.end() : position] == "{":
            holes.append(0)
        elif position <= len(text) and not holes:
            return position, None
        elif holes:
            holes.pop()
    return len(text), "string never closes"


def _hole_step(text: str, position: int, holes: list[int]) -> int:
    """Pass one token of code in the innermost hole and return where it ends."""
    character = text[position]
    if text.startswith("/-", position):
        return _comment_end(text, position)[0]
    if character == '"' and _has_holes(text, position):
        holes.append(-1)
        return position + 1
    if character == "}" and not holes[-1]:
        holes.pop()
        return position + 1
    holes[-1] += (character == "{") - (character == "}")
    token = _TOKEN.match(text, position)
    assert token, "every character begins a token"
    return token.end()
