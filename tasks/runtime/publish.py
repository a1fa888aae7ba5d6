"""Outs appear whole or not at all: written beside their place, flushed to disk, then moved there by one rename."""

from __future__ import annotations

import csv
import errno
import glob
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.runtime.chaos import reach

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""A full disk, a quota and a limit on file size: who writes cannot tell them apart, and need not."""


@contextmanager
def publish(out: Path) -> Iterator[Path]:
    """Yield a path to write a file or folder at; on success it replaces `out` by one rename, on failure it is removed.

    Raises OSError with a remedy when the disk is full; what stood at `out` before is then untouched.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.parent / f".{out.name}.draft-{os.getpid()}"
    for left in out.parent.glob(f".{glob.escape(out.name)}.draft-*"):  # by a stage that was killed: an out has one writer
        remove(left)
    try:
        yield draft
        sync(draft)
        reach("publish", out.name)
        if out.is_dir():
            remove(out)
            reach("publish.moving", out.name)
        draft.replace(out)
        _sync_entry(out.parent)
        reach("published", out.name)
    except OSError as error:
        remove(draft)
        if error.errno in FULL:
            raise OSError(
                error.errno, f"disk full while publishing {out}; free some space and run again, nothing else is lost"
            ) from error
        raise
    except BaseException:
        remove(draft)
        raise


def publish_json(out: Path, value: Mapping[str, Any]) -> None:
    """Publish `value` as indented JSON with floats as they are and keys in the order given."""
    with publish(out) as draft:
        draft.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def publish_curve(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Publish a learning curve as CSV, a DVC plot: one row a logged step, columns in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with publish(out) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def remove(path: Path) -> None:
    """Remove a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or a folder and all below it, to disk."""
    for entry in sorted(path.rglob("*")) if path.is_dir() else []:
        _sync_entry(entry)
    _sync_entry(path)


def _sync_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
