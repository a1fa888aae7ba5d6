"""Locks that a killed build of a torch extension leaves behind, for which every later build would wait for ever.

deepspeed builds its operators when they are first used. torch guards a build by a file that its builder creates, keeps open and
removes; the file itself says nothing of who that is. So a lock that no process has open is nobody's.
"""

from __future__ import annotations

import os
from pathlib import Path


def build_root() -> Path:
    """Return the folder in which torch builds extensions for this user."""
    if given := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"


def stale_locks(root: Path | None = None) -> list[Path]:
    """Return the locks below torch's build folder, or `root`, that no process of this machine has open. Linux only: else none."""
    locks = sorted((root or build_root()).glob("**/lock"))
    if not locks or not Path("/proc/self/fd").is_dir():
        return []
    held = _open_files()
    return [lock for lock in locks if (lock.stat().st_dev, lock.stat().st_ino) not in held]


def _open_files() -> set[tuple[int, int]]:
    """Return device and inode of every file that a process of this user has open."""
    found = set[tuple[int, int]]()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            stat = entry.stat()
        except OSError:  # it was closed, or its process ended, or belongs to another user
            continue
        found.add((stat.st_dev, stat.st_ino))
    return found
