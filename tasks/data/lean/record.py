"""What extraction yields: theorems under the field names of the published OBT set, and what was set aside, with the reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pydantic import Field

from tasks.runtime.records import Record
from tasks.runtime.theorems import Proved


class Theorem(Proved):
    """A theorem with its proof, as its file has them, and what its file says of it.

    An `example` has no name and is called `NAMESPACE.example#2`, as no Lean theorem can be. A statement goes to the end of the
    type where the proof begins with `|` or `where`. The informal statement is that of a blueprint annotation, or the problem
    text of its file; the informal proof is the blueprint's.
    """

    Docstring: str | None = None
    Kind: str
    """The keyword: theorem, lemma, problem or example."""
    Modifiers: list[str]
    """Such as private, protected or noncomputable, in the file's order; last `mutual` inside a mutual block."""
    Attributes: list[str]
    """Each attribute as in the file, such as `simp`; of a blueprint annotation only that word."""
    Opened: list[str]
    """What is set for this declaration alone, as in the file: `open Nat in`, `set_option maxHeartbeats 400000 in`."""
    Line: int = Field(ge=1)
    """Line of the keyword."""
    Sorry: bool
    """Whether its code holds `sorry` or `admit`: a statement whose proof is not finished."""


class Rejected(Record):
    """A declaration, an unknown command or a whole file that did not become a theorem."""

    Name: str
    """Full name; empty where there is none."""
    Kind: str
    """The keyword; `file` for a whole file; empty where the file ends before one."""
    Reason: str
    """One of a few, so that they can be counted."""
    Detail: str = ""
    File_path: str
    Line: int = Field(ge=1)
    Text: str
    """The declaration as in the file; empty for a whole file."""


@dataclass
class Extraction:
    """Theorems and rejects of a set of files: every declaration is in one of them."""

    theorems: list[Theorem] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def reasons(self) -> Counter[str]:
        """Return how many were rejected for each reason, for the scores."""
        return Counter(reject.Reason for reject in self.rejected)
