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

from tasks.runtime.chaos import reach
from tasks.runtime.publish import remove, sync

MANIFEST = "manifest.json"
MARKER = "complete"


class Checkpoints:
    """The checkpoints of one stage identity, numbered by step."""

    def __init__(self, folder: Path, finished: Path | None = None) -> None:
        """Use `folder`, which need not exist yet; `finished` is where they wait to be forgotten once they are cleared."""
        self.folder, self.finished = folder, finished

    @contextmanager
    def save(self, step: int) -> Iterator[Path]:
        """Yield a draft folder to fill; it becomes checkpoint `step` when the block ends without an error, else it goes."""
        draft = self.folder / f"draft-{step:08d}"
        remove(draft)
        draft.mkdir(parents=True)
        try:
            yield draft
            self.seal(draft, step)
        except BaseException:
            remove(draft)
            raise

    def seal(self, draft: Path, step: int) -> Path:
        """Turn a filled folder on the same disk into checkpoint `step`: hash, flush, rename, then write the marker."""
        reach("checkpoint")
        hashes = {str(path.relative_to(draft)): sha256(path) for path in sorted(draft.rglob("*")) if path.is_file()}
        (draft / MANIFEST).write_text(json.dumps(hashes, indent=1), encoding="utf-8")
        sync(draft)
        place = self.place(step)
        remove(place)
        draft.replace(place)
        reach("checkpoint.unmarked")
        (place / MARKER).write_text("", encoding="utf-8")
        sync(place / MARKER)
        sync(self.folder)
        reach("checkpoint.sealed")
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
        """Give up every checkpoint of this identity, once its outs are published.

        Until DVC has recorded the outs, a kill would cost all that made them: so they are moved aside; `revive` takes them back.
        """
        if self.finished is not None and self.folder.exists():
            remove(self.finished)
            self.finished.parent.mkdir(parents=True, exist_ok=True)
            self.folder.replace(self.finished)
        else:
            remove(self.folder)

    def revive(self) -> None:
        """Take back what an earlier run of this identity had finished with, and forget what others of the stage had."""
        assert self.finished is not None
        if self.finished.exists() and not self.folder.exists():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.finished.replace(self.folder)
        remove(self.finished.parent)


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
