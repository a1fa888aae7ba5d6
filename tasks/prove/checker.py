"""What a proof checker is: candidates in, verdicts in the same order out, each with a reason and a place.

    with open_checker(CheckerSettings()) as checker:
        verdicts = checker.check([Candidate("two", "theorem two : 1 + 1 = 2 :=", "theorem two : 1 + 1 = 2 := by decide")])

`verified` means that Lean's kernel holds a theorem of exactly the given statement, made of nothing but the library: the text
rule (`rules`) turns away what a proof may not say before Lean is asked, and Lean's own environment is looked at afterwards.
A statement that cannot be stated in the backend's library is `unsupported`, never false; a checker that dies or hangs gives no
verdict on the others of its batch. Opening costs nothing until the first candidate that the cache does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

Backend = Literal["lean-wasm", "lean-repl", "recorded"]
Reason = Literal[
    "verified",
    "malformed",
    "statement_changed",
    "forbidden_word",
    "sorry",
    "axiom",
    "unsupported",
    "error",
    "timeout",
    "crashed",
    "unknown",
]
"""`malformed`: cut off, unbalanced, or without a proof. `unsupported`: the statement itself does not elaborate here.
`error`: Lean's message is the detail. `timeout`: over the bound on work; or on wall time, then the detail begins with `SLOW`.
`crashed`: Lean died of this candidate, even alone. `unknown`: never recorded."""
LETTERS = 'notation "ℕ" => Nat\nnotation "ℤ" => Int\nnotation "ℚ" => Rat\nopen Nat'
"""Mathlib's names for core Lean's own types, and the namespace of miniF2F's header that core Lean has."""
SLOW = "no answer within"


@dataclass(frozen=True)
class Candidate:
    """A proof to be checked, in the form of the OBT set."""

    name: str
    """The theorem's name, as its statement has it."""
    statement: str
    """From `theorem` to `:=`."""
    proof: str
    """The statement and its proof: the field `Proof` of an OBT record."""


@dataclass(frozen=True)
class Verdict:
    """What was found about one candidate."""

    verified: bool
    reason: Reason
    detail: str
    """Lean's own message, or the rule that was broken; empty when verified."""
    position: tuple[int, int] | None
    """Line, from 1, and column, from 0, in the candidate's `proof`."""
    seconds: float
    """Time it took; 0 when the cache or the text rule answered."""
    backend: Backend
    toolchain: str
    """`4.28.0`: verdicts of different Leans are different verdicts."""
    library_commit: str
    """Commit of Mathlib, or `core` for a Lean without it."""


class Checker(Protocol):
    """Anything that checks proofs."""

    def check(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Return a verdict for each candidate, in their order."""


class CheckerSettings(BaseModel):
    """How candidates are checked. Fits into a stage's params as one field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    backend: Backend = "lean-wasm"
    """`lean-wasm`: core Lean, installed here. `lean-repl`: a native Lean with Mathlib. `recorded`: the cache alone."""
    heartbeats: int = Field(default=20_000, ge=100)
    """Lean's own measure of work that one declaration may take, in its thousands: the same on every machine."""
    seconds: float = Field(default=30.0, gt=0)
    """Wall time that one candidate may take before Lean is killed and started again."""
    start_seconds: float = Field(default=600.0, gt=0)
    """Wall time that starting Lean and importing the header may take."""
    memory_gib: float = Field(default=6.0, gt=0)
    """Resident memory at which a Lean process is killed."""
    header: str = ""
    """What every candidate is checked under: imports, `open`s. Empty: the library's Init alone."""
    command: tuple[str, ...] = ()
    """lean-repl: the command that starts the REPL, for example `lake env path/to/repl`."""
    url: str = ""
    """lean-repl: address of an HTTP Lean server that gives the REPL's answers, instead of `command`."""
    toolchain: str = ""
    """lean-repl: the Lean version it must have; empty: whichever it says it has."""
    library_commit: str = ""
    """lean-repl: commit of the Mathlib it was built with, for the record."""


@contextmanager
def open_checker(
    settings: CheckerSettings | None = None, cache: Path | None = Path(".temper/lean/verdicts.sqlite")
) -> Iterator[Checker]:
    """Open a checker behind its cache of verdicts, and stop its processes at the end. `cache=None`: nothing is remembered.

    Raises UserError when the backend is not there and cannot be installed.
    """
    from tasks.prove.backends import connect

    with connect(settings or CheckerSettings(), cache) as checker:
        yield checker
