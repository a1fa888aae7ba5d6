"""Warm processes (tasks.runtime.host) that what a run starts often is forked from, for as long as the run lasts.

One has imported what stages import; another, of coordinator and worker, has Prefect and DVC. Each loads while the first stages
run; what starts before it is ready, or after it was lost, runs by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from flows import child
from tasks.runtime.host import HOST, STOP

LOGS = Path(".temper/logs")
WORTH = 3
"""Stages that have to run for a host to be worth its own start, which costs what one stage saves."""
TOOLS = (
    *("prefect.engine", "prefect.flow_engine", "prefect.artifacts", "prefect._internal.observers", "pydantic.v1"),
    *("anyio._backends._asyncio", "httpcore._sync", "rich._emoji_codes", "networkx"),
    *("dvc.cli", "dvc.cachemgr", "dvc.commands.data_sync", "dvc.compare", "dvc.data_cloud", "dvc.lock", "dvc.scm", "dvc_render"),
    *(
        "dvc.repo",
        "dvc.repo.index",
        "dvc.repo.graph",
        "dvc.repo.stage",
        "dvc.repo.trie",
        "dvc.utils.strictyaml",
        "dvc_data.index",
    ),
    *(
        "dvc.repo.artifacts",
        "dvc.repo.datasets",
        "dvc.repo.metrics",
        "dvc.repo.params",
        "dvc.repo.plots",
        "dvc_data.hashfile.db.local",
    ),
    *("dvc_s3", "s3fs", "scmrepo.git", "scmrepo.noscm", "dulwich.ignore", "dulwich.worktree", "configobj", "flatten_dict"),
)
"""What a run of a stage on a worker and its transfers import, most of it only when they need it. A name that a newer library
does not have costs the time of one import."""
KILLED = 128 + 9


@contextmanager
def warm(root: Path, stages: int) -> Iterator[Mapping[str, str]]:
    """Keep a host for a run of so many `stages`, and yield what to add to their environment to find it.

    One that the environment names already is used as it is.
    """
    if stages < WORTH or sys.platform != "linux" or os.environ.get(HOST):
        yield {}
        return
    with kept(root, "host") as place:
        yield {HOST: place}


@contextmanager
def kept(root: Path, name: str, libraries: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Keep a host that imports `libraries`, or what stages import, and yield its socket; its log is `.temper/logs/NAME.log`."""
    (root / LOGS).mkdir(parents=True, exist_ok=True)
    # a socket's path may have 107 bytes, which a checkout's own can exceed
    with tempfile.TemporaryDirectory(prefix="temper-") as folder, (root / LOGS / f"{name}.log").open("wb") as log:
        place = str(Path(folder) / name)
        process = child.start("tasks.runtime.host", place, *libraries, cwd=root, output=log, env=env)
        try:
            yield place
        finally:
            child.kill(process)


class Guest:
    """A process forked by a host, to be watched and ended like one of our own."""

    def __init__(self, connection: socket.socket) -> None:
        """Take the connection on which the host tells how it ended."""
        self._connection = connection
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the exit code up to `timeout` seconds; None when it still runs then."""
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            said = b""
            with contextlib.suppress(OSError):
                said = self._connection.recv(16)
            self.returncode = int(said) if said else KILLED
            self._connection.close()
        return self.returncode

    def terminate(self) -> None:
        """Have it asked to end."""
        if self.returncode is None:
            with contextlib.suppress(OSError):
                self._connection.send(STOP)

    def kill(self) -> None:
        """Have it killed with its group."""
        if self.returncode is None:
            self._connection.close()
            self.returncode = KILLED


def fork(place: str, module: str, *arguments: str, cwd: Path, output: int, env: Mapping[str, str] | None = None) -> Guest | None:
    """Have the host at `place` run `python -m MODULE ARGUMENTS`; None when there is no host to ask, or none yet."""
    environment = {**os.environ, "PATH": child.search_path(), "SHELL": child.SHELL, **(env or {})}
    said = {"module": module, "arguments": arguments, "folder": str(cwd), "environment": environment}
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Path(os.devnull).open("rb") as nothing:
        try:
            connection.connect(place)
            socket.send_fds(connection, [json.dumps(said).encode()], [nothing.fileno(), output, output])
        except OSError:
            connection.close()
            return None
    return Guest(connection)


def run(place: str | None, module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS` to its end, forked from the host at `place` if that can be; its output is `stdout`."""
    with tempfile.TemporaryFile() as output:
        guest = fork(place, module, *arguments, cwd=cwd, output=output.fileno()) if place else None
        if guest is not None:
            code = guest.wait()
        else:
            code = subprocess.run([sys.executable, "-m", module, *arguments], cwd=cwd, stdout=output, stderr=output).returncode
        output.seek(0)
        return subprocess.CompletedProcess([module, *arguments], code or 0, output.read().decode(errors="replace"))
