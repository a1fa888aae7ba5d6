"""One stage of a run: DVC as a child, its log line by line, its progress, and an honest account of how it ended.

`dvc --wait-for-lock repro --single-item STAGE` does all the work: DVC decides whether the stage has to run, restores what
its run cache holds, and commits the outs. The flag stands before the subcommand, else parallel stages lose finished work to
the lock.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flows import child
from flows.planning.graph import Stage
from flows.redact import redacted
from tasks.runtime import progress
from tasks.runtime.stage import FINISHED, PREEMPTED, WORK

LOGS = Path(".temper/logs")
TICK = 2.0
"""Seconds between two looks at a stage's progress."""
FAILURE = "ERROR: failed to reproduce"
EXIT = re.compile(r"exited with (-?\d+)$")
CACHED = re.compile(r"^Stage '.*' (?:didn't change, skipping|is cached - skipping run, checking out outputs)$")
HINT = re.compile(
    r"^(?:Updating lock file|Generating lock file|To track the changes|To enable auto|\t(?:git add|dvc config)|Use `dvc)"
)
NOISE = re.compile(rf"^(?:Running stage '|> |ERROR: |WARNING: )|{HINT.pattern}")
"""DVC's own lines; those of `HINT` are for somebody who runs DVC by hand."""

Ending = Literal["completed", "cached", "failed", "preempted", "stopped"]


@dataclass(frozen=True)
class Outcome:
    """How one attempt at a stage ended."""

    ending: Ending
    """`cached`: DVC found nothing to run; `preempted`: worth another attempt; `stopped`: the whole run was stopped."""
    seconds: float = 0.0
    code: int = 0
    """Exit code of the stage's own process; negative or above 128 for a signal."""
    detail: str = ""
    """What DVC said about a cached stage; the last line of one that failed."""
    ran: bool = False
    """Whether the stage's command was started, so that its time says something."""


@dataclass
class Transcript:
    """What of a stage's log tells how it ended."""

    tail: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    """Its last lines."""
    ran: bool = False
    """Whether DVC started the stage's command."""
    cached: str = ""
    """What DVC said when it found nothing to run."""

    def add(self, line: str) -> None:
        """Take one more line."""
        self.tail.append(line)
        self.ran = self.ran or line.startswith("Running stage '")
        self.cached = line if CACHED.match(line) else self.cached

    def inner_code(self, code: int) -> int:
        """Return the exit code of the stage's own process as DVC reports it, or DVC's own `code` when it names none."""
        at = next((i for i, line in enumerate(self.tail) if line.startswith(FAILURE)), len(self.tail))
        found = EXIT.search("\n".join(list(self.tail)[at:]))
        return int(found[1]) if found else code

    def reason(self) -> str:
        """Return the last line that is the stage's own; DVC's last error when the stage said nothing."""
        own = [line for line in self.tail if not NOISE.match(line)]
        errors = [line for line in self.tail if line.startswith("ERROR: ")]
        return own[-1] if own else errors[-1] if errors else "it said nothing"


class Children:
    """The children of a run, so that a stop reaches all of them."""

    def __init__(self) -> None:
        """Know of none yet."""
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Say whether the run is being stopped: nothing new may start."""
        return self._stopping

    @contextmanager
    def watched(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Count `process` among the children; whatever is left of its group is killed at the end of the block."""
        with self._lock:
            self._running.add(process)
            if self._stopping:
                process.terminate()
        try:
            yield
        finally:
            child.kill(process)
            with self._lock:
                self._running.discard(process)

    def stop(self, grace: float = child.GRACE) -> None:
        """Ask all children to end, let them write their checkpoints for `grace` seconds, then kill what is left."""
        with self._lock:
            self._stopping = True
            running = list(self._running)
        for process in running:
            process.terminate()
        deadline = time.monotonic() + grace
        try:
            while any(process.poll() is None for process in running) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            for process in running:
                child.kill(process)


def attempt(
    root: Path,
    stage: Stage,
    children: Children,
    *,
    force: bool,
    say: Callable[[str], None],
    watch: Callable[[float, str], None],
    env: Mapping[str, str] | None = None,
) -> Outcome:
    """Have DVC bring `stage` up to date, once; `say` gets every line of its log, `watch` its progress in percent.

    The log also goes to `.temper/logs/STAGE.log`; `env` is added to the environment of the stage. No secret of the environment is
    in what it says (flows.redact).
    """
    if children.stopping:
        return Outcome("stopped", detail="not started: the run was stopped")
    started = time.monotonic()
    places = [root / progress.FOLDER / f"{name}.json" for name in stage.labels]
    for place in places:
        place.unlink(missing_ok=True)
    arguments = _arguments(stage.target, force)
    process = child.start("dvc", *arguments, cwd=root, output=subprocess.PIPE, env={"PYTHONUNBUFFERED": "1", **(env or {})})
    transcript = Transcript()
    (root / LOGS).mkdir(parents=True, exist_ok=True)
    with children.watched(process), (root / LOGS / f"{stage.name}.log").open("w", encoding="utf-8") as log:
        for line in map(redacted, _follow(process, lambda: _look(places, watch))):
            print(line, file=log, flush=True)
            transcript.add(line)
            if not HINT.match(line):
                say(line)
        _look(places, watch)
        code = process.wait()
    ended = account(code, transcript, time.monotonic() - started, children.stopping)
    if ended.ending in ("completed", "cached"):
        _forget(root, stage)
    return ended


def account(code: int, transcript: Transcript, seconds: float, stopping: bool = False) -> Outcome:
    """Work out how an attempt ended from DVC's exit code and its log."""
    if code == 0 and transcript.cached:
        return Outcome("cached", seconds, detail=transcript.cached)
    if code == 0:
        return Outcome("completed", seconds, ran=True)
    inner, reason = transcript.inner_code(code), transcript.reason()
    if stopping:
        return Outcome("stopped", seconds, inner, reason, transcript.ran)
    if inner == PREEMPTED:
        return Outcome("preempted", seconds, inner, reason, transcript.ran)
    if number := _signal(inner):
        hint = ": out of memory, or killed by hand" if number == signal.SIGKILL else ""
        return Outcome("preempted", seconds, inner, f"killed by signal {number}{hint}; last line: {reason}", transcript.ran)
    return Outcome("failed", seconds, inner, reason, transcript.ran)


def _forget(root: Path, stage: Stage) -> None:
    """Remove the checkpoints that a stage kept until DVC had recorded its outs."""
    for name in stage.labels:
        shutil.rmtree(root / WORK / FINISHED / name, ignore_errors=True)


def _arguments(stage: str, force: bool) -> list[str]:
    return ["--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), stage]


def _follow(process: subprocess.Popen[bytes], tick: Callable[[], None]) -> Iterator[str]:
    """Yield the lines of a child as they come and call `tick` in between, until it ends; a bar's `\\r` ends a line too."""
    assert process.stdout is not None
    rest, ticked, decode = "", time.monotonic(), codecs.getincrementaldecoder("utf-8")("replace").decode
    with selectors.DefaultSelector() as selector, process.stdout as pipe:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            ready = selector.select(TICK)
            if time.monotonic() - ticked >= TICK:
                ticked = time.monotonic()
                tick()
            if not ready:
                if process.poll() is not None:
                    break
                continue
            if not (data := os.read(pipe.fileno(), 65536)):
                break
            *whole, rest = (rest + decode(data)).replace("\r", "\n").split("\n")
            yield from (line for line in whole if line.strip())
    if rest.strip():
        yield rest


def _look(places: Sequence[Path], watch: Callable[[float, str], None]) -> None:
    """Pass on the newest of a stage's progress files (tasks.runtime.progress), if it has one."""
    written = {place: place.stat().st_mtime for place in places if place.is_file()}
    if not written:
        return
    state: dict[str, Any] = json.loads(max(written, key=lambda place: written[place]).read_text(encoding="utf-8"))
    what = f"{state['what']}: " if state["what"] else ""
    done = f"{state['done']:,.0f} of {state['total']:,.0f}, {state['rate']:,.1f} {state['unit']}/s"
    watch(100 * state["done"] / max(state["total"], 1e-9), f"{what}{done}, {progress.clock(state['left_s'])} left")


def lost(code: int) -> bool:
    """Tell whether a process that ended with this code is worth another attempt: it was preempted, or ended by a signal."""
    return code == PREEMPTED or _signal(code) != 0


def _signal(code: int) -> int:
    """Return the signal that an exit code stands for, as a process or as a shell tells it; 0 for none."""
    if code < 0:
        return -code
    return code - 128 if 128 < code <= 128 + 64 else 0
