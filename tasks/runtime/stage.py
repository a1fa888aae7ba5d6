"""How a stage is started: flags from its signature, params from its section, a lease, an identity, honest exit codes.

A stage module ends with `run_stage(main)`. Its `main(params, run, *, flags...)` takes its validated params, this run, and
keyword-only paths annotated `In` or `Out`, which become `--flags`; so dvc.yaml reads as the pipeline and the stage runs by
hand. Exit codes: 0 done, 1 failed, 2 a mistake in params or data (never retried), 75 stopped by SIGTERM after a checkpoint,
128 and the signal when a signal ended one of its processes; the last two are worth another attempt.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import inspect
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

from tasks.runtime.chaos import reach
from tasks.runtime.checkpoint import Checkpoints, sha256
from tasks.runtime.host import hosted
from tasks.runtime.imports import ROOT, project_modules
from tasks.runtime.lease import Lease
from tasks.runtime.params import PARAMS_FILE, StageParams, UserError, check_section, label, overridden, read_yaml
from tasks.runtime.progress import Progress
from tasks.runtime.publish import FULL

In = Annotated[Path, "in"]
Out = Annotated[Path, "out"]
FAILED, REFUSED, PREEMPTED = 1, 2, 75
WORK = Path(".temper")
FINISHED = "finished"
"""Below WORK: checkpoints of stages whose outs are published, until DVC has recorded these."""
FULL_SAID = re.compile(rf"os error ({'|'.join(map(str, sorted(FULL)))})\b|No space left on device|PytorchStreamWriter failed")
"""How libraries that raise errors of their own tell of a full disk."""
DISK_REMEDY = "; the disk is full: free some space and run again, it goes on from its last checkpoint"


class Preempted(Exception):
    """SIGTERM arrived and the work so far is in a checkpoint."""


class Lost(RuntimeError):
    """A process of the stage was ended by a signal, for want of memory say: what is sealed goes on when run again."""


@dataclass(frozen=True)
class Run:
    """One run of one stage."""

    stage: str
    """Name of the stage: its section in params.yaml, and for a cell of a matrix what sets it apart."""
    identity: str
    """Hash of params, code and inputs: what makes the numbers."""
    lease: Lease
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """SHA-256 of every file of every input, by flag and by the file's path below that input."""

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of this identity."""
        return Checkpoints(WORK / "checkpoints" / self.stage / self.identity, WORK / FINISHED / self.stage / self.identity)

    def progress(self, total: float, unit: str, what: str = "") -> Progress:
        """Start counting `total` units of work."""
        return Progress(self.stage, total, unit, what)


def run_stage(main: Callable[..., None], arguments: list[str] | None = None, rank: int = 0) -> NoReturn:
    """Run a stage's `main` from the command line and exit the process with its code.

    `rank` numbers the processes that a launcher started together; each holds a lease of its own, rank 0 the stage's.
    """
    if arguments is None and (code := hosted(_module_name(main), sys.argv[1:])) is not None:
        sys.exit(code)
    set_environment()
    die_with_parent()
    signal.signal(signal.SIGTERM, _on_sigterm)
    sys.exit(_run(main, sys.argv[1:] if arguments is None else arguments, rank))


def set_environment() -> None:
    """Set what libraries read from the environment when they are loaded, unless it is set already."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a stage has its own progress line
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while waiting are 5 times slower on shared cores


def _run(main: Callable[..., None], arguments: list[str], rank: int) -> int:
    hints = get_type_hints(main, include_extras=True)
    params_type: type[StageParams] = hints["params"]
    flags, given = _parse(main, hints, params_type, arguments)
    stage = label(params_type.section, given.cell)

    def body() -> None:
        values = overridden(params_type, read_yaml(given.params), given.set)
        params = check_section(params_type, values, " ".join([str(given.params), *(f"--set {item}" for item in given.set)]))
        _require_inputs(hints, flags)
        with Lease(WORK / "work" / (f"{stage}.rank{rank}" if rank else stage), stage) as lease:
            reach("lease", stage)
            inputs = {name: _content(path) for name, path in flags.items() if hints[name] is In}
            run = Run(stage, identity(main.__module__, params, inputs), lease, inputs)
            if rank == 0:
                run.checkpoints.revive()
            main(params, run, **flags)
            lease.check()
            reach("done", stage)

    return exit_code(body, stage)


def exit_code(body: Callable[[], None], who: str) -> int:
    """Call `body` and turn how it ended into an exit code; the last line on stderr says what happened."""
    started = time.monotonic()
    try:
        body()
    except Preempted as stop:
        print(f"{who}: stopped by SIGTERM; {stop}", file=sys.stderr)
        return PREEMPTED
    except UserError as error:
        print(f"{who}: {error}", file=sys.stderr)
        return REFUSED
    except Lost as lost:
        print(f"{who}: {lost}", file=sys.stderr)
        return 128 + signal.SIGKILL
    except Exception as error:  # noqa: BLE001  the last frame of the process: every failure becomes a code and a line
        traceback.print_exc()
        print(f"{who}: {type(error).__name__}: {error}{DISK_REMEDY if disk_full(error) else ''}", file=sys.stderr)
        return FAILED
    print(f"{who}: done in {time.monotonic() - started:.1f} s", file=sys.stderr)
    return 0


def disk_full(error: BaseException | None) -> bool:
    """Tell whether an error, or what caused it, is that there was no room to write."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or FULL_SAID.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _parse(
    main: Callable[..., None], hints: dict[str, Any], params_type: type[StageParams], arguments: list[str]
) -> tuple[dict[str, Path], argparse.Namespace]:
    """Turn the keyword-only parameters of `main` into flags and read them; also return what every stage takes beside them."""
    module = sys.modules[main.__module__]
    parser = argparse.ArgumentParser(prog=f"python -m {_module_name(main)}", description=module.__doc__)
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help=f"YAML with the section {params_type.section!r}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of that section, for this run")
    parser.add_argument("--cell", metavar="NAME", help="which cell of a matrix this is: cells run side by side under their names")
    names = [p.name for p in inspect.signature(main).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True, dest=name)
    given = parser.parse_args(arguments)
    return {name: vars(given)[name] for name in names}, given


def _require_inputs(hints: dict[str, Any], flags: dict[str, Path]) -> None:
    for name, path in flags.items():
        if hints[name] is In and not path.exists():
            raise UserError(f"--{name.replace('_', '-')} {path}: no such file or folder; run the stage that makes it first")


def identity(module: str, params: StageParams, inputs: Mapping[str, Mapping[str, str]]) -> str:
    """Hash what makes a stage's numbers: its params, its code and the content of its inputs; never where or on what it runs."""
    if module == "__main__":
        module = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
    facts: dict[str, Any] = {"params": params.model_dump(mode="json")}
    facts["code"] = {str(path.relative_to(ROOT)): sha256(path) for path in project_modules(module)}
    facts["inputs"] = inputs
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _content(path: Path) -> dict[str, str]:
    """Return the hash of every file at or below `path`, hashed side by side: a large model waits for nothing else."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {str(file.relative_to(path)): digest for file, digest in zip(files, pool.map(sha256, files), strict=True)}


def _module_name(main: Callable[..., None]) -> str:
    spec = sys.modules[main.__module__].__spec__
    return spec.name if spec else main.__module__


def _on_sigterm(signum: int, frame: Any) -> None:
    """Let the stage's main thread unwind; a trainer that checkpoints on SIGTERM installs its own handler instead."""
    raise Preempted("it goes on from its last checkpoint when run again")


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent dies, and die now if it has: `kill -9` of dvc leaves no orphan.

    A forked process names its `parent`. One that was started anew cannot know it; it is an orphan when somebody of another
    session has adopted it and the leader of its group, who started it or what did, is gone.
    """
    if sys.platform == "linux":
        before = os.getppid() if parent is None else parent
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != before or (parent is None and _adopted()):
            os.kill(os.getpid(), signal.SIGKILL)


def _adopted() -> bool:
    """Tell whether the parent of this process is not who started it."""
    try:
        if os.getppid() == 0 or os.getsid(os.getppid()) == os.getsid(0):  # 0 is a parent outside of this container
            return False
        os.kill(os.getpgrp(), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
