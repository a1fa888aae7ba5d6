"""The aligned theorems whose words are nearest to a Lean statement: what a language model is shown before it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.data.encoder import bare, load_encoder
from tasks.runtime.theorems import Told

_BYTES = 512
"""Bytes of a statement that are compared."""


def nearest(folder: Path, rows: Sequence[Told], pool: Sequence[Told], count: int) -> list[list[Told]]:
    """Return for each row the `count` nearest of the pool, the nearest last (next to the question); never a row itself.

    `folder` holds the retriever; it is not read where nothing is to be found.
    """
    if not rows or not pool or not count:
        return [[] for _ in rows]
    encoder = load_encoder(folder, _BYTES)
    words_PH = encoder.embed([str(row.Informal_statement) for row in pool])
    lean_NH = encoder.embed([bare(row.Statement) for row in rows])
    ranked = (lean_NH @ words_PH.T).argsort(dim=1, descending=True).tolist()
    found = []
    for row, order in zip(rows, ranked, strict=True):
        others = [pool[place] for place in order if pool[place].Name != row.Name]
        found.append(others[:count][::-1])
    return found
