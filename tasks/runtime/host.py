"""A warm process that stages are forked from: a run pays for importing torch and transformers once, not once a stage.

`temper run` starts it and names its socket in TEMPER_HOST. A stage that DVC starts finds it there, hands over its command
line, folder, environment and output, waits, and ends with the code of the process that was forked for it. Stop and kill reach
that process as they would have reached the stage. Without a host, or before it is ready, a stage runs by itself: the fork runs
the same code from the same files, so the bits are the same (tests/e2e/test_host.py). Importing takes 6 s of a core here.
What else is started often from heavy libraries can be forked from a host of its own, which imports the named ones instead.

    python -m tasks.runtime.host SOCKET [LIBRARY]...
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

HOST = "TEMPER_HOST"
"""Names the socket to a stage; taken out of the environment of what is forked."""
WARM = (
    "torch",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
    "datasets",
    "peft",
    "scipy.stats",
)
"""What most stages import. Nothing of the project: its code is read anew by every stage."""
OURS = ("tasks", "flows")
"""Packages that are forgotten in a fork, so that it runs the files as they are now."""
STOP = b"stop"
LARGEST = 1 << 20
"""Bytes of the longest command line and environment that are taken."""
PATIENCE = 10.0
"""Seconds that a caller may take to say what it wants."""


def hosted(module: str, arguments: list[str]) -> int | None:
    """Have the host run `python -m module arguments` and return its exit code; None when there is no host to ask."""
    from tasks.runtime.stage import die_with_parent

    if not (place := os.environ.get(HOST)) or module == "__main__":
        return None
    said = {"module": module, "arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(place)
            socket.send_fds(connection, [json.dumps(said).encode()], [0, 1, 2])
        except OSError:
            return None
        signal.signal(signal.SIGTERM, lambda *_: connection.send(STOP))
        die_with_parent()
        answer = connection.recv(16)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return int(answer) if answer else 128 + signal.SIGKILL


@dataclass(frozen=True)
class Guest:
    """A stage at work: its process, and the connection to whoever asked for it."""

    process: int
    pidfd: int
    """Readable once the process has ended."""
    caller: socket.socket


class Host:
    """Forks a process for every caller and tells each how its own ended. One thread: forking is safe."""

    def __init__(self, door: socket.socket) -> None:
        """Take the listening socket; nobody has called yet."""
        self._door = door
        self._guests: set[Guest] = set()
        self._events = selectors.DefaultSelector()
        self._events.register(door, selectors.EVENT_READ, self._welcome)

    def serve(self) -> NoReturn:
        """Answer callers until this process is killed."""
        while True:
            for key, _ in self._events.select()[:1]:  # what one event closes cannot be meant by another then
                key.data()

    def _welcome(self) -> None:
        """Fork what a new caller asks for. One that leaves or says nothing sensible is let go."""
        caller, _ = self._door.accept()
        caller.settimeout(PATIENCE)
        said, descriptors = b"", list[int]()
        with contextlib.suppress(OSError):
            said, descriptors, _, _ = socket.recv_fds(caller, LARGEST, 3)
        if said and len(descriptors) == 3:
            self._fork(caller, json.loads(said), descriptors)
        else:
            caller.close()
        for descriptor in descriptors:
            os.close(descriptor)

    def _fork(self, caller: socket.socket, said: dict[str, Any], descriptors: list[int]) -> None:
        if (process := os.fork()) == 0:
            self._leave(caller)
            become(said["module"], said["arguments"], said["folder"], said["environment"], descriptors)
        print(f"{process}: {said['module']} {' '.join(said['arguments'])}", flush=True)
        guest = Guest(process, os.pidfd_open(process), caller)
        self._guests.add(guest)
        self._events.register(caller, selectors.EVENT_READ, lambda: self._hear(guest))
        self._events.register(guest.pidfd, selectors.EVENT_READ, lambda: self._farewell(guest))

    def _leave(self, caller: socket.socket) -> None:
        """Close, in a forked process, what is the host's own."""
        self._events.close()
        for opened in (self._door, caller, *(guest.caller for guest in self._guests)):
            opened.close()
        for guest in self._guests:
            os.close(guest.pidfd)

    def _hear(self, guest: Guest) -> None:
        """Pass on a caller's stop; one that has gone, killed with the run, takes its stage along."""
        said = b""
        with contextlib.suppress(OSError):
            said = guest.caller.recv(len(STOP))
        with contextlib.suppress(ProcessLookupError):
            if said:
                os.kill(guest.process, signal.SIGTERM)
            else:
                self._events.unregister(guest.caller)
                os.kill(guest.process, signal.SIGKILL)
                os.killpg(guest.process, signal.SIGKILL)

    def _farewell(self, guest: Guest) -> None:
        """Tell the caller how its stage ended; by a signal counts 128 more, as a shell has it."""
        code = os.waitstatus_to_exitcode(os.waitpid(guest.process, 0)[1])
        with contextlib.suppress(OSError):
            guest.caller.send(str(code if code >= 0 else 128 - code).encode())
        with contextlib.suppress(KeyError):
            self._events.unregister(guest.caller)
        self._events.unregister(guest.pidfd)
        self._guests.discard(guest)
        guest.caller.close()
        os.close(guest.pidfd)


def become(module: str, arguments: list[str], folder: str, environment: dict[str, str], descriptors: list[int]) -> NoReturn:
    """Be `python -m module arguments` in a session of its own, in a process just forked; never returns.

    The project's modules are forgotten first, so that the code is that of the files as they are now.
    """
    from tasks.runtime.stage import die_with_parent

    code = 1
    try:
        os.setsid()
        die_with_parent()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update({name: value for name, value in environment.items() if name != HOST})
        for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
            del sys.modules[name]
        importlib.invalidate_caches()
        sys.argv, sys.path[0] = [module, *arguments], folder
        code = _exit_code(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code(body: Callable[[], object]) -> int:
    """Call `body` and return the code that the interpreter would end with."""
    try:
        body()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001  the last frame of the process
        traceback.print_exc()
        return 1
    return 0


def main(place: str, libraries: Sequence[str] = ()) -> NoReturn:
    """Import `libraries`, or what stages import, then listen at `place`, which only this user can reach, until killed."""
    from tasks.runtime.stage import die_with_parent, set_environment

    die_with_parent()
    set_environment()
    for module in libraries or WARM:
        with contextlib.suppress(ModuleNotFoundError):  # then what is forked imports it, or says what is missing
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what is here to stay is not touched again, so forks share its memory
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(place)
        Path(place).chmod(0o600)
        door.listen(64)
        Host(door).serve()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
