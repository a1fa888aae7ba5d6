"""Stages forked from the process of the tests, which has paid for torch and the Trainer: a run costs its work and no more."""

import csv
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tasks.runtime.host import become

EVERY_STEP = {"TEMPER_CHECKPOINT_SECONDS": "0"}


@dataclass(frozen=True)
class Forked:
    """A stage at work in a process of its own; everything it says goes to `log`."""

    process: int
    log: Path

    def end(self) -> tuple[int, str]:
        """Wait for it; return its exit code, negative for a signal, and what it said."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        return code, self.log.read_text(errors="replace")


def begin(module: str, arguments: list[str], folder: Path, environment: dict[str, str] | None = None) -> Forked:
    """Fork `python -m module arguments` in `folder`: the way of the warm process, so the stage is none the wiser."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"log-{time.monotonic_ns()}.txt"
    with log.open("wb") as said, Path(os.devnull).open("rb") as nothing:
        if (process := os.fork()) == 0:
            sys.path.insert(0, str(folder))
            # not what pytest catches
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
            become(
                module, arguments, str(folder), {**os.environ, **(environment or {})}, [nothing.fileno(), *[said.fileno()] * 2]
            )
    return Forked(process, log)


def finish(module: str, arguments: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a stage that should end well; return what it said."""
    code, said = begin(module, arguments, folder, environment).end()
    assert code == 0, said[-4000:]
    return said


def killed(module: str, arguments: list[str], folder: Path, at: str, environment: dict[str, str] | None = None) -> str:
    """Run a stage that dies at a failure point; return what it said. One that trains its seeds apart tells of the one lost."""
    code, said = begin(module, arguments, folder, {**EVERY_STEP, "TEMPER_FAIL_AT": at, **(environment or {})}).end()
    assert code in (-signal.SIGKILL, 128 + signal.SIGKILL), f"it ended with {code} and not at {at}: {said[-4000:]}"
    return said


def published(folder: Path) -> dict[str, bytes]:
    """Every byte below `folder` that a stage published, but for the seconds that one of them counts."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.name == "scores.json" and b'"seconds"' in content:
            content = json.dumps({name: value for name, value in json.loads(content).items() if name != "seconds"}).encode()
        found[str(path.relative_to(folder))] = content
    return found


def curve(folder: Path) -> list[dict[str, str]]:
    """The rows of the learning curve that a stage published below `folder`; none where it has none."""
    place = folder / "curve.csv"
    if not place.exists():
        return []
    with place.open() as file:
        return list(csv.DictReader(file))
