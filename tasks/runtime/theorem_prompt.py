"""How a theorem is put to a model: one rendering for the block data, the prover's prompts and its examples.

Every piece (a question, an answer) is encoded by itself and put together as token ids. So a prompt at test time is to the
token what training showed, a special token occurs only where the frame puts it, and none is added twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.runtime.lean.comments import code_lines, comments
from tasks.runtime.models import encode_text, holds_special
from tasks.runtime.params import UserError
from tasks.runtime.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LAYOUT_FILE = "theorem_prompt.json"
"""Beside the weights of a prover: how theorems were put to it."""
EXPERT = "You are a Lean4 expert who can write good Lean4 code based on natural language mathematical theorem and proof"
_HERE = "\u27e8here\u27e9"


class Posed(Record):
    """A theorem as it is put to a model: the fields of the published OBT set that a prompt needs, most of them optional."""

    Name: str = Field(min_length=1)
    Statement: str = Field(min_length=1)
    """Ends with `:=`."""
    Proof: str = ""
    """Statement and proof; empty, or with `sorry`, where none is known."""
    Commented_proof: str | None = None
    """Statement and proof, with the proof in words as comments inside."""
    Informal_statement: str | None = None
    Informal_proof: str | None = None
    Generated_informal_statement_and_proof: str | None = None
    """What a model wrote, where the source has no words of its own."""
    family: str = ""
    steps: int | None = Field(default=None, ge=0)
    """Steps until all goals are closed; counted from the proof where it is missing."""
    split: str = "train"

    @property
    def informal(self) -> str:
        """Statement and proof in words, a blank line between."""
        own = [text for text in (self.Informal_statement, self.Informal_proof) if text]
        return "\n\n".join(own) or self.Generated_informal_statement_and_proof or ""

    @property
    def proposition(self) -> str:
        """What is stated, without its name and blanks: by it the same theorem is known under another name."""
        rest = re.sub(r"^\s*(theorem|lemma|example)\s+\S+", "", self.Statement)
        return "".join(rest.split())


class Layout(BaseModel):
    """How theorems are written into a prompt. The same for training and proving."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    text: Literal["short", "theoremllama"] = "short"
    """`theoremllama`: the paper's headings and fences, and the answer repeats the statement. `short`: the answer is the proof
    alone, which goes on where the statement ends."""
    informal: bool = True
    """Whether prompts hold the theorem and its proof in words."""
    comments: Literal["inline", "head", "none"] = "inline"
    """Where a shown proof has its comments: between its steps, all before the first, or nowhere."""
    system: str = ""
    """System message of the chat; none when empty."""
    end: str | None = None
    """Token that ends a proof, also of an example; the tokenizer's end of sequence, and none in examples, when null."""

    def shown(self, record: Posed) -> str:
        """Return what follows a record's statement, commented as the layout says. Raises ValueError where it does not follow."""
        return recommented(tail(record.Commented_proof or record.Proof, record.Statement), self.comments)

    def question(self, record: Posed) -> str:
        """Return the part of a prompt that puts a theorem."""
        words = record.informal if self.informal else ""
        if self.text == "short":
            return (f"{words}\n" if words else "") + f"{record.Statement}\n### Proof\n"
        told = f"Natural language version of theorem and proof:\n{record.Name}\n{words}\n\n" if words else ""
        stated = f"### Lean4 version of theorem statement:\n```lean4\n{record.Statement}\n```\n\n"
        return told + stated + "### Lean4 version of theorem and proof:\n"

    def answer(self, statement: str, proof: str) -> str:
        """Return the answer that is `proof`, the text after the statement."""
        return proof if self.text == "short" else f"```lean4\n{statement}{proof}\n```"

    def proof(self, statement: str, answer: str) -> str:
        """Return the text after the statement in an answer: of the first block of Lean, of all if there is none.

        Where the answer states something else, all of it is returned, so that no checker can take it for a proof of `statement`.
        """
        if self.text == "short":
            return answer
        block = re.search(r"```lean4?[^\n]*\n(.*?)(?:```|\Z)", answer, re.DOTALL)
        code = (block[1] if block else answer).rstrip()
        try:
            return tail(code, statement)
        except ValueError:
            return f" {code}"

    @property
    def separator(self) -> str:
        """What stands behind an example."""
        return "\n\n" if self.text == "short" else "\n\n---\n\n"


def tail(proof: str, statement: str) -> str:
    """Return what follows `statement` in `proof`. Raises ValueError when it does not begin with it, blanks aside."""
    if proof.startswith(statement):
        return proof[len(statement) :]
    begins = re.match(r"\s*".join(re.escape(part) for part in re.findall(r"\w+|[^\w\s]", statement)), proof.lstrip())
    if begins is None:
        raise ValueError("its proof does not begin with its statement")
    return proof.lstrip()[begins.end() :]


def recommented(proof: str, where: Literal["inline", "head", "none"]) -> str:
    """Return the text after a statement with its comments left in place, put together before all code, or left out."""
    if where == "inline":
        return proof
    code = "\n".join(code_lines(proof))
    code = code if code[:1].isspace() else f" {code}"
    said = " ".join(filter(None, map(words, comments(proof))))
    return f" /- {said} -/{code}" if where == "head" and said else code


def words(comment: str) -> str:
    """Return what a comment says, without its marks and on one line."""
    inner = re.sub(r"^--+|^/-|-/$", "", comment.strip())
    return " ".join(inner.replace("/-", " ").replace("-/", " ").split())


def steps(record: Posed) -> int:
    """Return the difficulty of a record: as it says, else the lines of its tactic block that are not blank and not comments."""
    if record.steps is not None:
        return record.steps
    lines = code_lines(tail(record.Proof, record.Statement))
    return max(1, sum(line.strip() != "by" for line in lines))


@dataclass(frozen=True)
class Encoded:
    """A theorem as token ids."""

    question: list[int]
    answer: list[int]
    """Ended by the token that ends a proof."""


class Renderer:
    """Turns theorems into token ids, by one layout and one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> None:
        """Read the chat template. Raises UserError when the layout's end is not a token of the tokenizer."""
        self.tokenizer, self.layout = tokenizer, layout
        end = tokenizer.eos_token_id if layout.end is None else tokenizer.convert_tokens_to_ids(layout.end)
        if not isinstance(end, int) or (layout.end is not None and end == tokenizer.unk_token_id):
            raise UserError(f"layout.end: {layout.end!r} is not a token of the tokenizer; use one it has, or null")
        self.end = end
        self.before, self.after = self._frame()
        self.separator = ([] if layout.end is None else [self.end]) + self._frame_ids(layout.separator)

    def encode(self, records: Sequence[Posed]) -> list[Encoded]:
        """Return questions and answers of records whose proofs are known."""
        questions = self._ids([self.layout.question(record) for record in records])
        answers = self._ids([self.layout.answer(record.Statement, self.layout.shown(record)) for record in records])
        return [Encoded(question, [*answer, self.end]) for question, answer in zip(questions, answers, strict=True)]

    def questions(self, records: Sequence[Posed]) -> list[list[int]]:
        """Return the questions of records."""
        return self._ids([self.layout.question(record) for record in records])

    def example(self, shown: Encoded) -> list[int]:
        """Return an example as it stands in a prompt."""
        return [*shown.question, *shown.answer[:-1], *self.separator]

    def prompt(self, examples: Iterable[Encoded], question: Sequence[int]) -> list[int]:
        """Return a whole prompt: the frame, examples, a question."""
        body = [token for shown in examples for token in self.example(shown)]
        return [*self.before, *body, *question, *self.after]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        together = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [
            encode_text(self.tokenizer, text) if holds_special(self.tokenizer, text) else list(ids)
            for text, ids in zip(texts, together, strict=True)
        ]

    def _frame_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _frame(self) -> tuple[list[int], list[int]]:
        """Return the ids before and after what the user says: those of the chat template, else the token that begins a text."""
        if not self.tokenizer.chat_template:
            return list(self.tokenizer("")["input_ids"])[:1] if self.tokenizer.bos_token_id is not None else [], []
        turns = [{"role": "system", "content": self.layout.system}] if self.layout.system else []
        text = self.tokenizer.apply_chat_template(
            [*turns, {"role": "user", "content": _HERE}], add_generation_prompt=True, tokenize=False
        )
        before, _, after = str(text).partition(_HERE)
        return self._frame_ids(before) if before else [], self._frame_ids(after) if after else []


def load_layout(folder: Path) -> Layout:
    """Return the layout of a data set or prover. Raises UserError when its folder has none or a damaged one."""
    path = folder / LAYOUT_FILE
    try:
        return Layout.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it says how theorems are put: make the folder by the stage prover") from None
    except (ValidationError, ValueError) as error:
        raise UserError(f"{path}: not a layout of prompts: {' '.join(str(error).split())}; make the folder again") from None


def save_layout(layout: Layout, folder: Path) -> None:
    """Write a layout into a folder."""
    (folder / LAYOUT_FILE).write_text(layout.model_dump_json(indent=1) + "\n", encoding="utf-8")
