"""Words for a Lean proof, and comments within it: by rule for Atlas, else asked of a language model and judged.

Two questions are put, as in TheoremLlama (Wang et al., 2024), section 3.1: first for the theorem and its proof in words, then for
those words as comments inside the Lean proof. An answer that a judge here turns away is asked for again, up to a cap.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tasks.data.writers import Request, Writer
from tasks.runtime.lean.comments import refusal
from tasks.runtime.theorems import Told

MATHEMATICIAN = (
    "You are a mathematician who reads Lean 4. You are given a theorem with its proof in Lean 4 and write both in natural "
    "language: first what is stated, then, after an empty line, the proof. You write no Lean."
)
COMMENTATOR = (
    "You document proofs in Lean 4. You are given a proof in natural language and the same proof in Lean 4. You give back the "
    "Lean code in one ```lean block, with the natural language proof in it as comments, each in front of the step it explains. "
    "You change nothing of the code: no tactic, no line break, no indentation."
)
_LEAN, _WORDS = (f"{language} version of theorem statement and proof:" for language in ("Lean4", "Natural language"))
_FENCE = re.compile(r"^```[^\n]*\n(.*?)(^```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_REPEATED = 4
"""Times that one sentence may stand in a text before the text counts as a loop."""


@dataclass
class Answers:
    """What came of asking about many theorems."""

    good: dict[str, str] = field(default_factory=dict)
    """Name of the theorem -> the answer that was accepted."""
    faults: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name -> why the last answer was turned away, and that answer; only of theorems without a good one."""
    turned_away: Counter[str] = field(default_factory=Counter)
    """Reason -> answers, of every attempt."""
    asked: int = 0


def ask(writer: Writer, requests: dict[str, Request], judge: Callable[[str, str], tuple[str, str]], attempts: int) -> Answers:
    """Ask about every theorem until `judge(name, reply)` gives a text and no reason, at most `attempts` times."""
    answers, open_ = Answers(), dict(requests)
    for attempt in range(attempts):
        if not open_:
            break
        replies = writer.write([replace(request, attempt=attempt) for request in open_.values()])
        answers.asked += len(replies)
        for name, reply in zip(list(open_), replies, strict=True):
            text, reason = judge(name, reply)
            if reason:
                answers.turned_away[reason] += 1
                answers.faults[name] = (reason, reply)
                continue
            answers.good[name] = text
            answers.faults.pop(name, None)
            del open_[name]
    return answers


def informal_request(row: Told, examples: Sequence[Told]) -> Request:
    """Return the question for a theorem in words, with aligned theorems as examples."""
    shown = "\n\n".join(f"{_LEAN}\n{one.Proof}\n\n{_WORDS}\n{in_words(one)}" for one in examples)
    head = f"<Examples>\n{shown}\n</Examples>\n\n" if examples else ""
    return Request(MATHEMATICIAN, f"{head}{_LEAN}\n{row.Proof}\n\n{_WORDS}")


def comment_request(row: Told, words: str) -> Request:
    """Return the question for the words as comments in the proof."""
    return Request(COMMENTATOR, f"Natural language proof:\n{words}\n\nLean4 code:\n```lean\n{row.Proof}\n```")


def in_words(row: Told) -> str:
    """Return the theorem and its proof in words, parted by an empty line; empty unless it has both."""
    return f"{row.Informal_statement}\n\n{row.Informal_proof}" if row.Informal_statement and row.Informal_proof else ""


def judge_words(text: str, longest: int) -> tuple[str, str]:
    """Return the text, and why it cannot stand for a theorem and its proof, or an empty reason."""
    text = text.strip()
    sentences = Counter(part for part in re.split(r"(?<=[.!?])\s+|\n+", text) if part.strip())
    if not re.search(r"\w", text):
        return text, "empty"
    if len(text) > longest:
        return text, "too long"
    if max(sentences.values()) >= _REPEATED:
        return text, "repeats itself"
    if "```" in text or re.search(r"^\s*(theorem|lemma)\s+\S+.*:=", text, re.MULTILINE):
        return text, "is Lean"
    return text, "" if re.search(r"\n\s*\n", text) else "has no proof"


def judge_comments(row: Told, reply: str) -> tuple[str, str]:
    """Return the commented proof in a reply, and why it is not `row.Proof` with a new comment, or an empty reason."""
    found = _FENCE.search(reply)
    if not found:
        return reply, "no code block"
    if not found[2]:
        return reply, "half a code block"
    code = found[1].rstrip()
    return code, refusal(row.Proof, code) or ""
