"""A checker's process, kept on a short lead: it can hang, die, fill the memory or print garbage, and none of it reaches us.

The child has a session of its own, may write no file and dump no core, is killed with all it started when an answer is late
or its memory goes over the bound, and runs as nobody where we are root. Its end closes the pipes, ours does so too.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal

import psutil

from tasks.prove.checker import SLOW

NOBODY = 65534
STACK_MIB = 64
"""Native stack of the child: Lean recurses deeply, and a program that outgrows its stack is killed, not excused."""
_LOOK_SECONDS = 0.1
_NOISE = "[DEBUG"
"""What the WebAssembly build tells about itself, between the answers."""
_LAST_WORDS = 10

Cause = Literal["late", "memory", "died", "garbage"]


class Lost(Exception):
    """The process is gone, killed by us or by itself; what it had been asked has no answer."""

    def __init__(self, cause: Cause, detail: str) -> None:
        """Say why, in a word and in full."""
        super().__init__(detail)
        self.cause = cause


class Process:
    """A child that answers JSON with JSON, each ended by a blank line."""

    def __init__(self, command: Sequence[str], memory_gib: float, readable: Sequence[Path] = ()) -> None:
        """Start `command`. Raises OSError when there is no such program. `readable`: what it must be able to read as nobody."""
        as_nobody = os.geteuid() == 0 and all(map(_open_to_all, readable)) and bool(readable)
        who: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if as_nobody else {}
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_bound,
            cwd="/" if as_nobody else None,
            env=_bare_environment() if as_nobody else None,
            **who,
        )
        self._memory = int(memory_gib * 2**30)
        self.peak_bytes = 0
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        assert self._child.stdout
        assert self._child.stderr
        self._start(self._read, self._child.stdout)
        self._start(self._listen, self._child.stderr)

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Send one request and return its answer. Raises Lost when none comes in time, or none that is an answer."""
        try:
            assert self._child.stdin
            self._child.stdin.write(json.dumps(request).encode() + b"\n\n")
            self._child.stdin.flush()
        except OSError:
            raise self._lost("died", self._obituary()) from None
        return self.read(seconds)

    def read(self, seconds: float) -> dict[str, Any]:
        """Return the next answer. Raises Lost as `ask` does."""
        deadline = time.monotonic() + seconds
        lines: list[str] = []
        while (line := self._next(deadline, seconds)) or not lines:
            if line:
                lines.append(line)
        try:
            answer = json.loads("\n".join(lines))
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._lost("garbage", f"it printed what is no answer: {' '.join(lines)[:200]!r}")
        return answer

    def close(self) -> None:
        """Kill the child and all it started, and wait for it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe:
                with suppress(OSError):
                    pipe.close()

    def _next(self, deadline: float, seconds: float) -> str:
        """Return the next line, watching the clock and the child's memory meanwhile."""
        while True:
            self._weigh()
            try:
                line = self._lines.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise self._lost("late", f"{SLOW} {seconds:g} s") from None
                continue
            if line is None:
                raise self._lost("died", self._obituary())
            return line

    def _weigh(self) -> None:
        with suppress(psutil.NoSuchProcess):
            resident = psutil.Process(self._child.pid).memory_info().rss
            self.peak_bytes = max(self.peak_bytes, resident)
            if resident > self._memory:
                raise self._lost("memory", f"it grew to {resident / 2**30:.1f} GiB, over the {self._memory / 2**30:g} allowed")

    def _lost(self, cause: Cause, detail: str) -> Lost:
        self.close()
        return Lost(cause, detail)

    def _obituary(self) -> str:
        code = self._child.wait()
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        time.sleep(_LOOK_SECONDS)  # what it said last may still be on its way
        return f"it ended with {how}{': ' if self._last_words else ''}{' | '.join(self._last_words)}"

    def _read(self, pipe: IO[bytes]) -> None:
        with suppress(ValueError, OSError):  # the pipe is closed under us when the child is killed
            for line in pipe:
                text = line.decode("utf-8", errors="replace").rstrip("\r\n")
                if not text.startswith(_NOISE):
                    self._lines.put(text.strip())
        self._lines.put(None)

    def _listen(self, pipe: IO[bytes]) -> None:
        with suppress(ValueError, OSError):
            for line in pipe:
                text = line.decode("utf-8", errors="replace").strip()
                if text and not text.startswith(_NOISE):
                    self._last_words.append(text[:300])

    @staticmethod
    def _start(target: Any, pipe: IO[bytes]) -> None:
        threading.Thread(target=target, args=(pipe,), daemon=True).start()


def _bound() -> None:
    """Bound what the child may do; runs in the child before it becomes the program."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    wanted = STACK_MIB * 2**20
    resource.setrlimit(resource.RLIMIT_STACK, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _open_to_all(path: Path) -> bool:
    """Whether any user may read what is at `path`."""
    full = path.resolve()
    return bool(full.stat().st_mode & 0o004) and all(folder.stat().st_mode & 0o001 for folder in full.parents)


def _bare_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
