"""Checkpoints that are whole or not there: a draft folder, flushed, hashed, renamed, and the marker last.

They live under `.temper/checkpoints/STAGE/IDENTITY/`, outside the DVC outs. A folder without its marker, or whose files do
not have the hashes of its manifest, is skipped as if it had never been written.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.runtime.publish import remove, sync

MANIFEST = "manifest.json"
MARKER = "complete"


class Checkpoints:
    """The checkpoints of one stage identity, numbered by step."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which need not exist yet."""
        self.folder = folder

    @contextmanager
    def save(self, step: int) -> Iterator[Path]:
        """Yield a draft folder to fill; it becomes checkpoint `step` when the block ends without an error."""
        draft = self.folder / f"draft-{step:08d}"
        remove(draft)
        draft.mkdir(parents=True)
        yield draft
        self.seal(draft, step)

    def seal(self, draft: Path, step: int) -> Path:
        """Turn a filled folder on the same disk into checkpoint `step`: hash, flush, rename, then write the marker."""
        hashes = {str(path.relative_to(draft)): sha256(path) for path in sorted(draft.rglob("*")) if path.is_file()}
        (draft / MANIFEST).write_text(json.dumps(hashes, indent=1), encoding="utf-8")
        sync(draft)
        place = self.place(step)
        remove(place)
        draft.replace(place)
        (place / MARKER).write_text("", encoding="utf-8")
        sync(place / MARKER)
        sync(self.folder)
        return place

    def place(self, step: int) -> Path:
        """Return where checkpoint `step` is or would be."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Return the steps of all whole checkpoints, ascending; damaged ones are named on stderr and skipped."""
        found = []
        for place in sorted(self.folder.glob("step-*")):
            if (fault := damage(place)) is None:
                found.append(int(place.name.removeprefix("step-")))
            else:
                print(f"checkpoint {place} skipped: {fault}", file=sys.stderr)
        return found

    def latest(self) -> tuple[int, Path] | None:
        """Return the newest whole checkpoint as (step, folder), or None."""
        steps = self.steps()
        return (steps[-1], self.place(steps[-1])) if steps else None

    def prune(self, keep: int = 2) -> None:
        """Remove all but the newest `keep` checkpoints."""
        for place in sorted(self.folder.glob("step-*"))[:-keep]:
            remove(place)

    def clear(self) -> None:
        """Remove every checkpoint of this identity, once its out is published."""
        remove(self.folder)


def damage(place: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, or None when it is whole."""
    if not (place / MARKER).exists():
        return "it has no completion marker"
    try:
        hashes = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read ({error})"
    for name, digest in hashes.items():
        if not (place / name).is_file() or sha256(place / name) != digest:
            return f"{name} is missing or changed"
    return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
