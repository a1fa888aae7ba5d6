"""Children that never outlive the run: DVC for a stage, the Prefect server, Prefect's worker.

Each is started through this module as the leader of a session of its own. A stop goes down the tree one parent at a time
(SIGTERM to the leader, which passes it to what it has started), so that the stage at the bottom hears it exactly once and
can write its checkpoint. What is left after the grace, or when we ourselves were killed, is killed as a group.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

GRACE = 20.0
"""Seconds that a stopped child has to write its checkpoint before it is killed."""
PR_SET_PDEATHSIG = 1
SHELL = shutil.which("bash") or "/bin/sh"
"""What DVC starts a stage's command with. bash becomes the command; dash stays in between and dies of the stop before it."""


def start(
    module: str,
    *arguments: str,
    cwd: Path,
    output: IO[bytes] | int,
    env: Mapping[str, str] | None = None,
    inherit: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Run `python -m MODULE ARGUMENTS` in a session of its own, stdout and stderr both to `output`, descriptors `inherit` kept.

    It is killed with all it has started when the calling thread ends, by the kernel's rules for PR_SET_PDEATHSIG.
    """
    command = [sys.executable, "-m", "flows.child", str(os.getpid()), module, *arguments]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": search_path(), "SHELL": SHELL, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=tuple(inherit),
    )


def search_path() -> str:
    """Return PATH with this interpreter's folder first, so that `python` in a stage's command is this one."""
    here = str(Path(sys.executable).parent)
    return os.pathsep.join([here, *(entry for entry in os.environ.get("PATH", "").split(os.pathsep) if entry != here)])


def stop(process: subprocess.Popen[bytes], grace: float = GRACE) -> None:
    """Ask a child to end, wait up to `grace` seconds, then kill its whole group."""
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    finally:
        kill(process)


def stop_tree(process: subprocess.Popen[bytes], grace: float = GRACE) -> None:
    """Ask what a child has started to end, wait up to `grace` seconds for that, then stop the child itself."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children()
        for entry in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                entry.terminate()
        psutil.wait_procs(started, timeout=grace)
    stop(process, grace=5)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a child's group, whatever is still alive in it, and reap the child."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    """Be the child: tie this process to its parent, then become the module that is asked for."""
    parent, sys.argv = int(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGHUP, _kill_group)
    signal.signal(signal.SIGTERM, _pass_on)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != parent:
        return
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _kill_group(signum: int, frame: FrameType | None) -> None:
    os.killpg(0, signal.SIGKILL)


def _pass_on(signum: int, frame: FrameType | None) -> None:
    """Pass a stop to what this process has started and go on, to see it end; with nothing started, unwind."""
    import psutil

    children = psutil.Process().children()
    if not children:
        raise KeyboardInterrupt
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()


if __name__ == "__main__":
    main()
