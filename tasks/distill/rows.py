"""The packed rows that teacher and student both read, and the hashes that show it was the same rows and the same tokens.

Position j of a row is learned when token j + 1 is: the last token of a prompt is among them, the last of an answer is not. All
learned positions of a data set have one order, row by row; a file of top-k probabilities and the student's batches share it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.runtime.models import encode_completion, encode_prompt
from tasks.runtime.packing import IGNORED, Example, PackedRow, pack
from tasks.runtime.params import UserError
from tasks.runtime.records import Completion, read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRAINING, VALIDATION = "sft", "valid"
"""Names of the data sets of a folder: `sft.jsonl`, which both models learn from, and `valid.jsonl`, which chooses c."""


@dataclass(frozen=True)
class Rows:
    """A data set as packed rows."""

    rows: Sequence[PackedRow]

    @cached_property
    def offsets(self) -> list[int]:
        """Number of learned positions before each row, and of all at the end: one more than there are rows."""
        return list(accumulate((sum(label != IGNORED for label in row["labels"]) for row in self.rows), initial=0))

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """Token that follows each learned position, [n]: what a hard label would teach there."""
        return np.array([label for row in self.rows for label in row["labels"] if label != IGNORED], dtype=np.int64)

    @cached_property
    def begins(self) -> NDArray[np.bool_]:
        """Whether an answer begins behind each learned position, [n]: where confidence is read, its further tokens left out.

        The first token of every example is no part of an answer, so none goes unnoticed between two answers in one row.
        """
        found = [
            before == IGNORED for row in self.rows for before, label in pairwise([IGNORED, *row["labels"]]) if label != IGNORED
        ]
        return np.array(found, dtype=np.bool_)

    @cached_property
    def digest(self) -> str:
        """Hash of all rows in their order."""
        digest = hashlib.sha256()
        for row in self.rows:
            for column in (row["input_ids"], row["labels"], row["position_ids"]):
                digest.update(np.array([len(column), *column], dtype="<i8").data)
        return digest.hexdigest()


def read_rows(tokenizer: PreTrainedTokenizerBase, path: Path, max_length: int) -> Rows:
    """Return the records of `path` as rows that learn every answer and its end; answers beyond `max_length` tokens are cut.

    A record whose prompt alone fills a row is left out. Raises UserError when all are, and as `read_records`.
    """
    examples: list[Example] = []
    for record in read_records(path, Completion):
        prompt, answer = encode_prompt(tokenizer, record.prompt), encode_completion(tokenizer, record.completion)
        answer = answer[: max(0, max_length - len(prompt))]
        if answer:
            examples.append((prompt + answer, [IGNORED] * len(prompt) + answer))
    if not examples:
        raise UserError(f"{path}: every prompt fills a row of max_length: {max_length}; raise it")
    return Rows(pack(examples, max_length))


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what every token id means: equal for two folders of one tokenizer, however their files are laid out."""
    entries = sorted((number, token) for token, number in tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps([entries, tokenizer.eos_token_id]).encode()).hexdigest()
