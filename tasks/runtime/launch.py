"""Where a training stage runs: in this process, or under the deepspeed launcher on several processes, GPUs or hosts.

Place is not identity: the global batch is a param, and how it is split is worked out here. fp32 on CPU, where bf16 is many
times slower; bf16 on GPU. The environment says where, if the machine itself does not:

    TEMPER_PROCESSES=2            processes on this machine (default: one for each GPU, else 1)
    TEMPER_ZERO=3                 ZeRO stage (default: 2 under the launcher); with one process it starts the launcher too
    TEMPER_HOSTFILE=FILE          several hosts, in deepspeed's format; they need ssh and this folder shared
    TEMPER_CHECKPOINT_SECONDS=60  least time between two checkpoints
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.extensions import stale_locks
from tasks.runtime.imports import ROOT
from tasks.runtime.params import UserError
from tasks.runtime.stage import FAILED, PREEMPTED, REFUSED, die_with_parent, run_stage

ZERO_CONFIGS = ROOT / "infra/deepspeed"
Number = TypeVar("Number", int, float)
MARK = "TEMPER_RANK_OF"
"""Set in every process that a launcher started, so that it trains instead of launching again."""


@dataclass(frozen=True)
class Place:
    """One process of a training stage among its fellows."""

    processes: int = 1
    """Processes that train together."""
    rank: int = 0
    """Number of this one; rank 0 publishes."""
    zero: int = 0
    """ZeRO stage of deepspeed; 0 is the plain Trainer."""
    gpu: bool = False
    """Whether it trains on a GPU."""
    checkpoint_seconds: float = 60.0
    """Least time between two checkpoints. A clock bounds what is lost and what is spent; the numbers do not depend on it."""

    @property
    def name(self) -> str:
        """What tells places apart whose checkpoints cannot be exchanged."""
        return f"zero{self.zero}x{self.processes}"

    @property
    def first(self) -> bool:
        """Whether this process speaks for all: it shows progress, seals checkpoints and publishes."""
        return self.rank == 0

    @property
    def zero_config(self) -> str | None:
        """The deepspeed configuration, or None without deepspeed."""
        return str(ZERO_CONFIGS / f"zero{self.zero}.json") if self.zero else None

    def threads(self, wanted: int) -> int:
        """Return the CPU threads of this process: `wanted`, shared by the processes where they compute on the CPU."""
        return wanted if self.gpu else max(1, wanted // self.processes)

    def split(self, batch_size: int, most: int) -> tuple[int, int]:
        """Return (rows per process and pass, passes per step) of a global batch, with at most `most` rows a pass, at least 1.

        Raises UserError when the processes cannot share the batch evenly.
        """
        share, rest = divmod(batch_size, self.processes)
        if rest or not share:
            raise UserError(
                f"batch_size: {batch_size} rows cannot be shared evenly by {self.processes} processes; "
                f"use a multiple of {self.processes}, or set TEMPER_PROCESSES to a divisor of {batch_size}"
            )
        micro = max(size for size in range(1, max(1, min(most, share)) + 1) if share % size == 0)
        return micro, share // micro


def check_place(checkpoints: Path, place: Place) -> None:
    """Raise UserError when a run was begun in another place, whose checkpoints below `checkpoints` this one cannot read.

    ZeRO cuts the state of the optimizer in as many pieces as there are processes. To begin anew would lose the work in silence.
    """
    others = sorted(path for path in checkpoints.glob("zero*x*") if path.name != place.name)
    if not others or _reached(checkpoints / place.name):
        return
    for other in others:
        if step := _reached(other):
            zero, processes = other.name.removeprefix("zero").split("x")
            raise UserError(
                f"step {step} was reached by {processes} processes with ZeRO-{zero}, whose checkpoints {place.processes} with "
                f"ZeRO-{place.zero} cannot read; set TEMPER_PROCESSES={processes} TEMPER_ZERO={zero} to go on, "
                f"or remove {other} to begin anew"
            )


def _reached(folder: Path) -> int:
    """Return the last step that is in a whole checkpoint of a place; 0 for none."""
    return max((step for kept in (folder, folder / "states") for step in Checkpoints(kept).steps()), default=0)


def here() -> Place:
    """Return the place of this process, as its launcher put it into the environment."""
    import torch

    seconds = _number(os.environ, "TEMPER_CHECKPOINT_SECONDS", float, Place.checkpoint_seconds)
    if MARK not in os.environ:
        return Place(gpu=torch.cuda.is_available(), checkpoint_seconds=seconds)
    return Place(
        processes=int(os.environ["WORLD_SIZE"]),
        rank=int(os.environ["RANK"]),
        zero=int(os.environ["TEMPER_ZERO"]),
        gpu=torch.cuda.is_available(),
        checkpoint_seconds=seconds,
    )


@dataclass(frozen=True)
class Launch:
    """What is asked of the deepspeed launcher."""

    processes: int
    """Processes on this machine; hosts of a hostfile bring their own number."""
    zero: int
    hostfile: Path | None = None

    def command(self, module: str, arguments: list[str]) -> list[str]:
        """Return the command that starts `python -m module arguments` as every process of the group.

        On one machine that is deepspeed's launcher of a node, started directly: as a child of this process it dies with it,
        and its children die with it in turn.
        """
        body = ["env", f"{MARK}={module}", f"TEMPER_ZERO={self.zero}", sys.executable, "-u", "-m", module, *arguments]
        if self.hostfile:
            front = [str(Path(sys.executable).parent / "deepspeed"), "--hostfile", str(self.hostfile), "--force_multi"]
        else:
            front = [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={self._world()}"]
            front += ["--log_level=critical"]
        return [*front, f"--master_port={_free_port()}", "--no_python", "--no_local_rank", *body]

    def _world(self) -> str:
        """Return the devices of this machine as the launcher reads them: base64 of `{"localhost": [0, 1]}`."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        devices = [int(device) for device in visible if device.isdigit()] or list(range(self.processes))
        return base64.urlsafe_b64encode(json.dumps({"localhost": devices[: self.processes]}).encode()).decode()


def wanted(environment: Mapping[str, str], gpus: int) -> Launch | None:
    """Return what to launch, or None to train in this process. Raises UserError for a setting that makes no sense."""
    hostfile = Path(environment["TEMPER_HOSTFILE"]) if environment.get("TEMPER_HOSTFILE") else None
    if hostfile and not hostfile.is_file():
        raise UserError(f"TEMPER_HOSTFILE={hostfile}: no such file; write lines like 'worker-1 slots=8'")
    processes = _number(environment, "TEMPER_PROCESSES", int, gpus or 1)
    alone = processes == 1 and not hostfile
    zero = _number(environment, "TEMPER_ZERO", int, 0 if alone and not gpus else 2)
    if processes < 1 or (gpus and processes > gpus):
        raise UserError(
            f"TEMPER_PROCESSES={processes}: must be at least 1" + (f" and at most {gpus}, the GPUs here" if gpus else "")
        )
    if zero not in ((0, 1, 2, 3) if alone else (1, 2, 3)):
        raise UserError(f"TEMPER_ZERO={zero}: must be 1, 2 or 3, or, for one process without deepspeed, 0")
    if zero == 0:
        return None
    if find_spec("deepspeed") is None:
        raise UserError("deepspeed is not installed, which trains on several processes or GPUs: pip install 'temper[deepspeed]'")
    return Launch(processes, zero, hostfile)


def launch_stage(main: Callable[..., None]) -> None:
    """Run a training stage's `main` where the machine and the environment say, and exit the process with its code."""
    if MARK in os.environ:
        run_stage(main, rank=int(os.environ["RANK"]))
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "a stage is started by python -m"
    try:
        launch = wanted(os.environ, _gpus())
    except UserError as error:
        print(f"{spec.name}: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    if launch is None:
        run_stage(main)
    else:
        sys.exit(_supervise(launch.command(spec.name, sys.argv[1:]), spec.name))


def _supervise(command: list[str], module: str) -> int:
    """Run the launcher as a child and return the exit code of the stage; SIGTERM goes to the processes that train."""
    die_with_parent()
    if "--hostfile" not in command:  # another host may be building in a shared home
        for lock in stale_locks():
            print(f"{module}: a build of an operator was killed; its lock {lock} is removed", file=sys.stderr)
            lock.unlink(missing_ok=True)
    # deepspeed builds an operator with ninja, which stands beside this Python even where no environment is activated
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # accelerate would set a number of threads of its own where this is missing
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PATH": path}
    child = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent)
    signal.signal(signal.SIGTERM, lambda *_: _terminate(child.pid, module))
    code = child.wait()
    if code in (0, FAILED, REFUSED, PREEMPTED):
        return code
    number = -code if code < 0 else 256 - code  # the launcher ends with the code of the process, as eight bits have it
    print(f"{module}: a process of the group was ended by signal {number}", file=sys.stderr)
    return 128 + number if number in set(signal.Signals) else FAILED


def _terminate(launcher: int, module: str) -> None:
    """Send SIGTERM to the processes that train; the launcher itself would kill them before their checkpoint is whole."""
    import psutil

    for process in psutil.Process(launcher).children(recursive=True):
        if process.cmdline()[1:4] == ["-u", "-m", module]:
            process.terminate()


def _gpus() -> int:
    """Return how many GPUs can be used, without loading torch where there is no driver."""
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")):
        return 0
    import torch

    return torch.cuda.device_count()


def _number(environment: Mapping[str, str], name: str, kind: type[Number], default: Number) -> Number:
    try:
        return kind(environment[name]) if environment.get(name) else default
    except ValueError:
        raise UserError(f"{name}={environment[name]!r}: must be a number") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
