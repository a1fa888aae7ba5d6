"""The warm process (tasks.runtime.host) that the stages of a run are forked from, for as long as the run lasts.

It loads while the first stages run; what starts before it is ready, or after it was lost, runs by itself.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flows import child
from tasks.runtime.host import HOST

LOG = Path(".temper/logs/host.log")
WORTH = 3
"""Stages that have to run for a host to be worth its own start, which costs what one stage saves."""


@contextmanager
def warm(root: Path, stages: int) -> Iterator[Mapping[str, str]]:
    """Keep a host for a run of so many `stages`, and yield what to add to their environment to find it."""
    if stages < WORTH or sys.platform != "linux":
        yield {}
        return
    (root / LOG).parent.mkdir(parents=True, exist_ok=True)
    # a socket's path may have 107 bytes, which a checkout's own can exceed
    with tempfile.TemporaryDirectory(prefix="temper-") as folder, (root / LOG).open("wb") as log:
        place = str(Path(folder) / "host")
        process = child.start("tasks.runtime.host", place, cwd=root, output=log)
        try:
            yield {HOST: place}
        finally:
            child.kill(process)
