"""GPUs of this machine, each lent to one stage at a time by the kernel.

A stage on a worker holds as many as its `meta: {worker: gpu, gpus: 2}` says, else one, and sees no other; of kind cpu none:
CUDA_VISIBLE_DEVICES is pinned to what it holds. A lease is a `flock`: it ends with the process that holds it, however that dies.
Prefect's page shows who has which (flows.workers.slots).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flows.workers.slots import occupied
from tasks.runtime.lease import Lease
from tasks.runtime.params import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
STOPPED = "stopped while it waited for a GPU"
LOOK = 0.5
"""Seconds between two looks for free GPUs."""


class Stopped(Exception):
    """The run was stopped while it waited for a GPU."""


def devices() -> list[str]:
    """Return the GPUs that this process may use: those of CUDA_VISIBLE_DEVICES, else all that the driver lists."""
    if (named := os.environ.get(VISIBLE)) is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    if not (tool := shutil.which("nvidia-smi")):
        return []
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


@contextlib.contextmanager
def lent(count: int, stopping: Callable[[], bool], say: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Hold `count` GPUs, waiting until they are free, and yield what to add to the environment; nothing if there are none.

    Raises UserError when this machine has fewer, Stopped when `stopping` while waiting.
    """
    found = devices()
    if not found or not count:
        yield {}
        return
    if count > len(found):
        raise UserError(f"{count} GPUs asked for by `meta: {{gpus: {count}}}`, and this worker has {len(found)}")
    with contextlib.ExitStack() as held:
        taken = _take(found, count, held)
        if len(taken) < count:
            say(f"waiting for {count} of the GPUs {', '.join(found)}: others hold them")
        while len(taken) < count:
            if stopping():
                raise Stopped(STOPPED)
            time.sleep(LOOK * (0.5 + random.random()))
            taken = _take(found, count, held)
        with occupied({name: _folder(name) for name in taken}, stopping, say) as shown:
            if not shown:
                raise Stopped(STOPPED)
            yield {VISIBLE: ",".join(taken)}


def _take(found: Sequence[str], count: int, held: contextlib.ExitStack) -> list[str]:
    """Lease the first `count` that are free; none at all when there are fewer, so that two who wait cannot block each other."""
    taken: list[str] = []
    with contextlib.ExitStack() as now:
        for name in found:
            with contextlib.suppress(UserError):
                now.enter_context(Lease(_folder(name), f"GPU {name}"))
                taken.append(name)
            if len(taken) == count:
                held.enter_context(now.pop_all())
                return taken
    return []


def _folder(name: str) -> Path:
    return _place() / name.replace("/", "_")


def _place() -> Path:
    """Return the folder of the leases: of this machine and user, whatever the checkout."""
    place = Path(tempfile.gettempdir()) / f"temper-gpus-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    if place.stat().st_uid != os.getuid():
        raise UserError(f"{place} belongs to somebody else; remove it, or set TMPDIR")
    return place
