"""A theorem with its proof, in Lean and in words: one record from extraction to proof writing.

The names in capitals are those of the published OBT set, so that its files can be read as they are,
and ours by whoever knows them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.runtime.records import Record

Split = Literal["train", "valid", "test", "heldout"]
"""`test`: new theorems of families that are learned from; `heldout`: theorems of families that are not."""


class Proved(Record):
    """A theorem with a proof in Lean, and what is told of it where it comes from."""

    idx: int = Field(ge=0)
    """Number of the record in its set."""
    Name: str = Field(min_length=1)
    """Full name, different for every theorem of a set."""
    Statement: str = Field(min_length=1)
    """From the keyword to `:=`."""
    Proof: str = Field(min_length=1)
    """Statement and proof; begins with the statement."""
    Informal_statement: str | None = None
    """What it states, in words."""
    Informal_proof: str | None = None
    """Its proof, in words."""
    File_path: str
    Commit: str

    @property
    def body(self) -> str:
        """What follows the statement: usually `by` and the tactics."""
        assert self.Proof.startswith(self.Statement), self.Name
        return self.Proof[len(self.Statement) :].lstrip(" ")


class Told(Proved):
    """A theorem before its words are woven into its proof, as Atlas or a file has it."""

    family: str = ""
    """The kind of theorem in Atlas; empty for theorems from elsewhere."""
    split: Split = "train"
    Other_proofs: list[str] = Field(default_factory=list)
    """Further proofs, each with the statement."""
    told: list[str] = Field(default_factory=list)
    """For each line of the tactic block the sentence that tells it, or an empty one; only Atlas has it."""
    told_by: str = "source"
    """Who wrote the informal statement and proof: `rules` for Atlas, `source` where the file has them."""


class Aligned(Told):
    """A theorem whose proof in words is told in its Lean proof: the record that provers learn from."""

    steps: int = Field(ge=0)
    """Difficulty: lines of the tactic block that hold code."""
    Generated_informal_statement_and_proof: str = Field(min_length=1)
    """The theorem and its proof in words, parted by an empty line."""
    Commented_proof: str = Field(min_length=1)
    """Statement and proof with comments; without its comments it is `Proof`."""
    informalised_by: str
    """Who wrote the words: `rules`, `source`, or the name of a model."""
    commented_by: str
    """Who placed the comments: `rules` or the name of a model."""
