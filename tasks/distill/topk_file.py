"""The k likeliest tokens of every learned position in one file: columns mapped into memory, checksummed, resumable.

    header     1,024 bytes: SHA-256 of the rest of the header, then JSON padded with spaces
    ids        [n, k] token ids, likeliest first: 2 bytes each, 3 where the vocabulary has more than 65,536 tokens
    probs      [n, k] probabilities under the whole vocabulary, 2 bytes each, in units of 1/65,535
    checksums  one SHA-256 for each block of positions, over its ids and then its probabilities

So a position takes 20 or, with a large vocabulary, 25 bytes at k = 5. Fixed point, not float16, because recalibration is a
function of p/c and the gradient of the loss is a difference of probabilities: both want the same absolute error everywhere. It is
at most 7.7e-6, which moves a recalibrated share by less than 4e-4 of itself even at c = 0.02; float16 is off by 2.4e-4 near 1.

The size is known before the first position, so a writer fills columns in place and a block counts from its checksum on.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.runtime.chaos import reach
from tasks.runtime.params import UserError

HEADER, DIGEST = 1024, 32
BLOCK = 16_384
"""Positions under one checksum: what an interruption may cost."""
UNITS = 65_535
Ids = NDArray[np.int64]
Probs = NDArray[np.float32]


class Header(BaseModel):
    """What a file says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["temper-topk-1"] = "temper-topk-1"
    positions: int = Field(ge=1)
    k: int = Field(ge=1)
    vocabulary: int = Field(ge=1, le=1 << 24)
    """Rows of the teacher's output layer."""
    block: int = Field(default=BLOCK, ge=1)
    teacher: str
    """Hash of the teacher's folder."""
    tokenizer: str
    """Hash of what the token ids mean."""
    data: str
    """Hash of the packed rows, in order, whose learned positions these are."""

    @property
    def id_bytes(self) -> int:
        """Bytes of a token id."""
        return 2 if self.vocabulary <= 1 << 16 else 3

    @property
    def blocks(self) -> int:
        """Number of blocks; the last one may be shorter."""
        return -(-self.positions // self.block)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return HEADER + self.positions * self.k * (self.id_bytes + 2) + self.blocks * DIGEST

    def encoded(self) -> bytes:
        """Return the header as it stands in a file."""
        text = json.dumps(self.model_dump()).encode().ljust(HEADER - DIGEST)
        assert len(text) == HEADER - DIGEST
        return hashlib.sha256(text).digest() + text


class Columns:
    """The columns of a file, mapped into memory."""

    def __init__(self, path: Path, header: Header, mode: Any) -> None:
        """Map the file at `path`, which has the size its header says; `mode` as of `numpy.memmap`."""
        n, k, wide = header.positions, header.k, header.id_bytes
        self.header = header
        self.ids_NKW = np.memmap(path, np.uint8, mode, HEADER, (n, k, wide))
        self.probs_NK = np.memmap(path, np.dtype("<u2"), mode, HEADER + n * k * wide, (n, k))
        self.sums_BD = np.memmap(path, np.uint8, mode, header.size - header.blocks * DIGEST, (header.blocks, DIGEST))

    def span(self, block: int) -> slice:
        """Return the positions of a block."""
        return slice(block * self.header.block, min((block + 1) * self.header.block, self.header.positions))

    def checksum(self, block: int) -> NDArray[np.uint8]:
        """Return the checksum that the content of a block has, whatever the file says it should be."""
        digest = hashlib.sha256(self.ids_NKW[self.span(block)].data)
        digest.update(self.probs_NK[self.span(block)].data)
        return np.frombuffer(digest.digest(), np.uint8)

    def whole(self, block: int) -> bool:
        """Return whether a block has the content that its checksum stands for."""
        return bool((self.sums_BD[block] == self.checksum(block)).all())


class Writer:
    """Fills a file position by position; run again on the same path and header, it goes on behind the last whole block."""

    def __init__(self, path: Path, header: Header) -> None:
        """Begin or go on. A file with another header, or of another size, is begun anew."""
        if header.k > header.vocabulary:
            raise UserError(f"teacher-topk.k: {header.k}, but the teacher's vocabulary has {header.vocabulary} tokens; lower it")
        self.path, self.header = path, header
        if not _continues(path, header):
            _lay_out(path, header)
        self._columns = Columns(path, header, "r+")
        whole = next((b for b in range(header.blocks) if not self._columns.whole(b)), header.blocks)
        self.done = min(whole * header.block, header.positions)
        """Positions written so far; those of a block begun before an interruption are written again."""

    def append(self, ids_NK: Ids, probs_NK: Probs) -> None:
        """Write the next positions: token ids and probabilities in [0, 1], likeliest first, both [n, k]."""
        assert ids_NK.shape == probs_NK.shape == (len(ids_NK), self.header.k)
        assert self.done + len(ids_NK) <= self.header.positions
        start, stop = self.done, self.done + len(ids_NK)
        octets = ids_NK.astype("<u4")[..., None].view(np.uint8)
        self._columns.ids_NKW[start:stop] = octets[..., : self.header.id_bytes]
        self._columns.probs_NK[start:stop] = np.rint(probs_NK.astype(np.float64) * UNITS).astype(np.uint16)
        self.done = stop
        reach("topk")
        full = self.header.blocks if stop == self.header.positions else stop // self.header.block
        for block in range(start // self.header.block, full):
            self._seal(block)

    def _seal(self, block: int) -> None:
        """Put the content of a block on disk, then its checksum."""
        columns = self._columns
        columns.ids_NKW.flush()
        columns.probs_NK.flush()
        columns.sums_BD[block] = columns.checksum(block)
        columns.sums_BD.flush()


class TopK:
    """A file that was read through and found whole."""

    def __init__(self, path: Path) -> None:
        """Open and verify the file at `path`. Raises UserError that says what is wrong with it and how to make it again."""
        self.path, self.header = path, read_header(path)
        self._columns = Columns(path, self.header, "r")
        bad = [block for block in range(self.header.blocks) if not self._columns.whole(block)]
        if bad:
            span = self._columns.span(bad[0])
            raise _damaged(path, f"positions {span.start} to {span.stop - 1} do not have their checksum")

    def __len__(self) -> int:
        """Return the number of positions."""
        return self.header.positions

    def read(self, start: int, stop: int) -> tuple[Ids, Probs]:
        """Return the token ids and probabilities of positions `start` to `stop` - 1, both [n, k], likeliest first."""
        octets = self._columns.ids_NKW[start:stop].astype(np.int64)
        ids = (octets << 8 * np.arange(self.header.id_bytes)).sum(-1)
        return ids, (self._columns.probs_NK[start:stop] / np.float32(UNITS)).astype(np.float32)

    def highest(self) -> int:
        """Return the largest token id of the file."""
        blocks = map(self._columns.span, range(self.header.blocks))
        return max(int(self.read(span.start, span.stop)[0].max()) for span in blocks)

    def require(self, *, tokenizer: str, data: str) -> None:
        """Raise UserError unless the file was made with this tokenizer and from these rows."""
        if tokenizer != self.header.tokenizer:
            raise UserError(
                f"{self.path}: its token ids are those of another tokenizer; teacher and student must have the same one: "
                "run teacher-topk with a teacher of this student's tokenizer"
            )
        if data != self.header.data:
            raise UserError(
                f"{self.path}: made from other data than is read here, or packed into rows of another max_length; "
                "run teacher-topk on this data, with the same max_length in both sections"
            )


def read_header(path: Path) -> Header:
    """Read and check the header and the size of a file. Raises UserError when either is not what was written."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run teacher-topk first")
    with path.open("rb") as file:
        head = file.read(HEADER)
    if len(head) < HEADER or hashlib.sha256(head[DIGEST:]).digest() != head[:DIGEST]:
        raise _damaged(path, "its header is cut off or changed")
    try:
        header = Header.model_validate_json(head[DIGEST:])
    except ValidationError as error:
        raise _damaged(path, f"its header is not that of a top-k file ({error.error_count()} faults)") from None
    if (size := path.stat().st_size) != header.size:
        raise _damaged(path, f"it has {size} bytes instead of {header.size}")
    return header


def _continues(path: Path, header: Header) -> bool:
    """Return whether a file begun earlier is there, of this very header."""
    if not path.is_file() or path.stat().st_size != header.size:
        return False
    with path.open("rb") as file:
        return file.read(HEADER) == header.encoded()


def _lay_out(path: Path, header: Header) -> None:
    """Make the file in its full size, all zero behind the header: no block has a checksum yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header.encoded())
        file.truncate(header.size)
        file.flush()
        os.fsync(file.fileno())


def _damaged(path: Path, fault: str) -> UserError:
    return UserError(f"{path}: damaged: {fault}; remove it and run teacher-topk again")
