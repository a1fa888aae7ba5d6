"""Safetensors as they lie on disk: where every tensor starts, so that it can be mapped and averaged without loading the model.

The library's readers hand out whole tensors, bfloat16 only through torch (two seconds to import); its writer wants the whole
file in memory. Averaging needs neither: a file is 8 bytes of header length, a JSON header, and the raw little-endian tensors.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.runtime.models import check_folder
from tasks.runtime.params import UserError

WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8}
FLOATS = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Tensor:
    """One tensor inside a safetensors file."""

    name: str
    dtype: str
    """As the format names it: BF16, F16, F32, F64, I64 ..."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""
    size: int
    """Bytes."""

    @property
    def floating(self) -> bool:
        """Whether it is averaged; other tensors are buffers, which must be equal and are copied."""
        return self.dtype in FLOATS

    @property
    def length(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Shard:
    """One safetensors file, mapped into memory for reading."""

    def __init__(self, path: Path) -> None:
        """Map `path` and read its header. Raises UserError when the file is truncated or not safetensors."""
        self.path = path
        with path.open("rb") as file:
            self.bytes = path.stat().st_size
            self.header = _header(path, file.read(8), file.read, self.bytes)
            self.map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        fields = json.loads(self.header[8:])
        fields.pop("__metadata__", None)
        self.tensors = sorted((self._tensor(name, field) for name, field in fields.items()), key=lambda t: t.start)
        end = max((tensor.start + tensor.size for tensor in self.tensors), default=len(self.header))
        if end != self.bytes:
            raise UserError(f"{path}: holds {self.bytes:,} bytes, its header promises {end:,}; copy or download it again")

    def _tensor(self, name: str, field: dict[str, Any]) -> Tensor:
        dtype, shape, (first, stop) = field["dtype"], tuple(field["shape"]), field["data_offsets"]
        width = (FLOATS | WIDTHS).get(dtype)
        if width is None:
            raise UserError(f"{self.path}: tensor {name} is {dtype}, which is not averaged; convert it to BF16, F16 or F32")
        if stop - first != math.prod(shape) * width:
            raise UserError(f"{self.path}: tensor {name} of shape {shape} and dtype {dtype} cannot take {stop - first} bytes")
        return Tensor(name, dtype, shape, len(self.header) + first, stop - first)


class Weights:
    """The weights of a model folder, in one file or in shards with an index."""

    def __init__(self, folder: Path) -> None:
        """Map every shard of `folder`. Raises UserError for a folder that is incomplete or not safetensors."""
        check_folder(folder)
        self.folder = folder
        index = folder / INDEX
        promised = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.is_file() else {}
        self.shards = [Shard(folder / name) for name in sorted(set(promised.values())) or ["model.safetensors"]]
        self.place = {tensor.name: (shard, tensor) for shard in self.shards for tensor in shard.tensors}
        if lost := sorted(promised.keys() - self.place.keys()):
            raise UserError(f"{index}: names tensor {lost[0]}, which is in no shard; copy or download the folder again")

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self.place

    def __getitem__(self, name: str) -> Tensor:
        """Return where the tensor of this name lies."""
        return self.place[name][1]

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor, in the order of the files."""
        return [tensor for shard in self.shards for tensor in shard.tensors]

    def raw(self, name: str) -> memoryview:
        """Return the mapped bytes of a tensor; nothing is read before they are touched."""
        shard, tensor = self.place[name]
        return memoryview(shard.map)[tensor.start : tensor.start + tensor.size]

    def hashes(self, given: Path, known: Mapping[str, str]) -> dict[str, str]:
        """Return the SHA-256 of every weights file by its name, from those `known` of all files below `given`: hashed once."""
        return {shard.path.name: known[str(shard.path.relative_to(given))] for shard in self.shards}


def _header(path: Path, prefix: bytes, read: Any, size: int) -> bytes:
    """Return the length prefix and the JSON header. Raises UserError when they are not what the format says."""
    if len(prefix) == 8:
        (length,) = struct.unpack("<Q", prefix)
        if length <= size - 8:
            header: bytes = read(length)
            if header.startswith(b"{") and header.rstrip().endswith(b"}"):
                return prefix + header
    raise UserError(f"{path}: not a safetensors file, or truncated in its header; copy or download it again")
