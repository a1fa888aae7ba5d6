"""Block data on disk: every record's tokens once, and which records stand in front of which.

A block is a window over the sorted records, so its row is put together when it is read: 10,000 blocks of 8,192 tokens are
some 80 million tokens, but only a few million different ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.runtime.packing import IGNORED, Example
from tasks.runtime.params import UserError
from tasks.runtime.theorem_prompt import Encoded, Renderer

if TYPE_CHECKING:
    import numpy
    from transformers import PreTrainedTokenizerBase

FILE = "blocks.safetensors"
Learned = Literal["target", "all"]


@dataclass(frozen=True)
class Blocks:
    """The blocks of a data set in their order; arrays of int32 and int64."""

    ids: numpy.ndarray
    """Tokens of all records, question and answer of each in turn."""
    bounds: numpy.ndarray
    """Where a record's question begins, where its answer does, and where that ends; shape (records, 3)."""
    examples: numpy.ndarray
    """Record numbers of the examples of all blocks, first to last."""
    starts: numpy.ndarray
    """Where each block's examples begin in `examples`, and one more: their number; block i ends with record i."""
    before: numpy.ndarray
    """Tokens in front of all, such as a system message."""
    after: numpy.ndarray
    """Tokens between a question and its answer."""
    separator: numpy.ndarray
    """Tokens behind an example, whose end token is left out."""
    vocabulary: str
    """Digest of the tokenizer that made the ids."""

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.bounds)

    @property
    def lengths(self) -> numpy.ndarray:
        """Tokens of every block, int64."""
        import numpy

        own = self.bounds[:, 2] - self.bounds[:, 0]
        sums = numpy.concatenate([[0], numpy.cumsum(own[self.examples] - 1 + len(self.separator))])
        return own + sums[self.starts[1:]] - sums[self.starts[:-1]] + len(self.before) + len(self.after)

    def examples_of(self, block: int) -> list[int]:
        """Return the record numbers of the examples of a block, in order."""
        return list(self.examples[self.starts[block] : self.starts[block + 1]].tolist())

    def row(self, block: int, learned: Learned = "target") -> Example:
        """Return the tokens and labels of a block; only its target is learned, or all of it."""
        import numpy

        parts: list[Any] = [self.before]
        for record in self.examples_of(block):
            start, _, stop = self.bounds[record]
            parts += [self.ids[start : stop - 1], self.separator]
        start, middle, stop = self.bounds[block]
        parts += [self.ids[start:middle], self.after]
        ids = numpy.concatenate([*parts, self.ids[middle:stop]]).tolist()
        context = len(ids) - int(stop - middle)
        return ids, ([IGNORED] * context + ids[context:] if learned == "target" else ids)

    def save(self, folder: Path) -> None:
        """Write the blocks into a folder."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: value for name, value in vars(self).items() if name != "vocabulary"}
        save_file(arrays, folder / FILE, metadata={"vocabulary": self.vocabulary})

    @classmethod
    def load(cls, folder: Path) -> Blocks:
        """Read the blocks of a folder. Raises UserError when there are none or they are damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(folder / FILE, "numpy") as file:
                return cls(**{name: file.get_tensor(name) for name in file.keys()}, **file.metadata())  # noqa: SIM118
        except FileNotFoundError:
            raise UserError(f"{folder / FILE}: no such file; run the stage prover-data first") from None
        except (SafetensorError, TypeError) as error:
            raise UserError(f"{folder / FILE}: damaged block data: {error}; run the stage prover-data again") from None


def blocks(renderer: Renderer, encoded: Sequence[Encoded], examples: Sequence[Sequence[int]]) -> Blocks:
    """Return block data of encoded records, the examples of each given by their record numbers."""
    import numpy

    ends = numpy.cumsum([len(part) for one in encoded for part in (one.question, one.answer)]).reshape(-1, 2)
    first = numpy.concatenate([[0], ends[:-1, 1]])
    return Blocks(
        ids=numpy.array([token for one in encoded for token in (*one.question, *one.answer)], "int32"),
        bounds=numpy.column_stack([first, ends]).astype("int64"),
        examples=numpy.array([number for each in examples for number in each], "int32"),
        starts=numpy.concatenate([[0], numpy.cumsum([len(each) for each in examples])]).astype("int64"),
        before=numpy.array(renderer.before, "int32"),
        after=numpy.array(renderer.after, "int32"),
        separator=numpy.array(renderer.separator, "int32"),
        vocabulary=digest(renderer.tokenizer),
    )


def digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of a tokenizer's vocabulary: ids mean nothing to a model of another one."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]
