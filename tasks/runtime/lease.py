"""A stage holds a lease on its work folder: a second writer is refused, and a stale one cannot come back.

The lock is the kernel's (`flock`), so it goes with the process however that dies. The fencing token counts the holders:
whoever publishes checks that its token is still the newest.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from pathlib import Path
from types import TracebackType

from tasks.runtime.params import UserError


class Lease:
    """An exclusive lease on `folder`, held from `__enter__` to `__exit__` or to the death of the process."""

    def __init__(self, folder: Path, who: str) -> None:
        """Name the folder and the holder; nothing is taken yet."""
        self.path = folder / "lease"
        self.who = who
        self.token = 0
        self._descriptor = -1

    def __enter__(self) -> Lease:
        """Take the lease. Raises UserError naming the holder when another process has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self.path.read_bytes().partition(b"\n")[0].decode(errors="replace").strip() or "another process"
            os.close(self._descriptor)
            raise UserError(f"{self.who} is already being run by {holder}; wait for it or stop it") from None
        self.token = self._newest() + 1
        told = _told(f"{self.token} pid {os.getpid()}".encode())
        os.pwrite(self._descriptor, told, 0)  # never empty: a kill here must not set the tokens back
        os.ftruncate(self._descriptor, len(told))
        os.fsync(self._descriptor)
        return self

    def check(self) -> None:
        """Raise RuntimeError when a later holder has taken the lease, for example after the folder was removed."""
        if not self.path.exists() or self._newest() != self.token or not os.path.samestat(self.path.stat(), self._stat()):
            raise RuntimeError(f"{self.who}: lease {self.token} on {self.path.parent} was lost to a later holder")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let go of the lease; the token file stays, so that tokens only grow."""
        os.close(self._descriptor)

    def _newest(self) -> int:
        """Return the token of the last holder; a damaged file counts as none, the kernel's lock is what excludes."""
        first = os.pread(self._descriptor, 64, 0).split()[:1]
        return int(first[0]) if first and first[0].isdigit() else 0

    def _stat(self) -> os.stat_result:
        return os.fstat(self._descriptor)


def sound_token(place: Path) -> bool:
    """Tell whether a lease file holds what a holder wrote: its token and number, and on a second line their checksum."""
    content = place.read_bytes()
    return content == _told(content.partition(b"\n")[0])


def _told(line: bytes) -> bytes:
    return b"%s\n%08x\n" % (line, zlib.crc32(line))
