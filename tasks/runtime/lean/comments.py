"""Whether a commented proof is the proof it was made from, with comments added and nothing else.

A model that writes comments into a proof may quietly change the proof. Taking the comments out of both sides must leave
the same code in the same columns: Lean reads structure from columns, so a comment that moves code changes it. Both sides,
because most proofs come with comments of their own. Words that come line by line are put in by a rule that changes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from tasks.runtime.lean.lexer import Kind, kind, lex

Refusal = Literal["cut off", "code changed", "no comment", "nothing added", "no content"]
"""Why a commented proof is not accepted. `nothing added`: it has no more comments than the proof had before."""


def comments(text: str) -> list[str]:
    """Return the comments of a text in order, with their marks. Documentation (`/-- -/`, `/-! -/`) is code to Lean."""
    return [token for token in lex(text).tokens if kind(token) is Kind.COMMENT]


def code_lines(text: str) -> list[str]:
    """Return the lines of a text with its comments blanked out: leading blanks kept, trailing ones and empty lines dropped."""
    tokens = (re.sub("[^\n]", " ", token) if kind(token) is Kind.COMMENT else token for token in lex(text).tokens)
    return [line.rstrip() for line in "".join(tokens).split("\n") if line.strip()]


def refusal(proof: str, commented: str) -> Refusal | None:
    """Return why `commented` is not `proof` with a new comment that says something, or None when it is."""
    if lex(commented).fault:
        return "cut off"
    if code_lines(commented) != code_lines(proof):
        return "code changed"
    before, after = comments(proof), comments(commented)
    if not after:
        return "no comment"
    if len(after) <= len(before):
        return "nothing added"
    new = Counter(after) - Counter(before)
    return None if any(re.search(r"\w", comment) for comment in new) else "no content"


def woven(statement: str, body: str, told: Sequence[str]) -> str:
    """Return statement and proof with each sentence of `told` above the line it tells; empty where these do not fit the proof."""
    head, *lines = body.split("\n")
    if head.strip() != "by" or len(lines) != len(told):
        return ""
    rows = [f"{statement} by"]
    for line, said in zip(lines, told, strict=True):
        indent = line[: len(line) - len(line.lstrip())]
        rows += [f"{indent}-- {said}", line] if said else [line]
    return "\n".join(rows)
