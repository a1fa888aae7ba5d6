"""The last run of each stage on this machine: how long, on what, from which commit. Facts of place, never part of an out.

One small file a stage, `.temper/history/STAGE.json`: its last run, its last run that ended well, and how long those that ended
well have taken with each of the last few params.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flows.planning.overlay import BEFORE
from tasks.runtime.params import PARAMS_FILE

FOLDER = Path(".temper/history")
KEPT_RUNS, KEPT_PARAMS = 20, 8
"""Durations that are kept of a stage with the same params, and how many params they are kept of."""
PACKAGES = ("torch", "transformers", "trl", "deepspeed", "dvc", "prefect")


@dataclass(frozen=True)
class Record:
    """One run of one stage."""

    stage: str
    seconds: float
    exit_code: int
    finished: str
    """Local time, ISO 8601 with offset."""
    params: Mapping[str, Any]
    """The stage's section of the params as they were in effect."""
    commit: str | None
    """The checked-out commit, with `+` behind it when tracked files were changed; None outside git."""
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)


def record(root: Path, stage: str, seconds: float, exit_code: int, params: Mapping[str, Any]) -> Record:
    """Write down a run that has just ended, with this machine's versions, hardware and commit, and return it.

    Only for a command that really ran: a stage that DVC skipped or restored says nothing about how long it takes.
    """
    finished = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    entry = Record(stage, round(seconds, 3), exit_code, finished, params, commit(root), versions(), hardware())
    runs = _read(root, stage)
    runs["last"] = asdict(entry)
    if exit_code == 0:
        runs["completed"] = asdict(entry)
        runs["durations"] = _with_duration(runs.get("durations"), _digest(params), entry.seconds)
    place = _place(root, stage)
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_suffix(f".draft-{os.getpid()}")
    draft.write_text(json.dumps(runs, indent=1, default=str), encoding="utf-8")
    draft.replace(place)
    return entry


def last(root: Path, stage: str) -> Record | None:
    """Return the last run of `stage`, however it ended, or None."""
    return _entry(root, stage, "last")


def last_completed(root: Path, stage: str) -> Record | None:
    """Return the last run of `stage` that ended well, or None."""
    return _entry(root, stage, "completed")


def usual(root: Path, stage: str, params: Mapping[str, Any], runs: int = 1) -> float | None:
    """Return the median seconds of the runs of `stage` with these params that ended well; None if fewer than `runs` are known."""
    known = _durations(_read(root, stage).get("durations")).get(_digest(params), [])
    return statistics.median(known) if len(known) >= max(runs, 1) else None


def _with_duration(kept: Any, digest: str, seconds: float) -> dict[str, list[float]]:
    """Return the durations by params with one more, the params seen longest ago forgotten."""
    durations = _durations(kept)
    newest = [*durations.pop(digest, []), seconds][-KEPT_RUNS:]
    return dict([*durations.items(), (digest, newest)][-KEPT_PARAMS:])


def _durations(kept: Any) -> dict[str, list[float]]:
    return dict(kept) if isinstance(kept, Mapping) else {}


def _digest(params: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _entry(root: Path, stage: str, which: str) -> Record | None:
    try:
        return Record(**_read(root, stage)[which])
    except (KeyError, TypeError):
        return None


def _read(root: Path, stage: str) -> dict[str, Any]:
    """Return what is written about a stage; a missing or damaged file counts as nothing, it is only a record."""
    try:
        runs = json.loads(_place(root, stage).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return runs if isinstance(runs, dict) else {}


def _place(root: Path, stage: str) -> Path:
    return root / FOLDER / f"{stage.replace('/', '_')}.json"


def commit(root: Path) -> str | None:
    """Return the checked-out commit, `+` behind it when tracked files were changed, None outside a git checkout.

    The params of a run that stand in params.yaml for its time are no change: the record of a run holds them.
    """
    described = _git(root, "rev-parse", "--verify", "HEAD")
    if described is None:
        return None
    changed = set((_git(root, "diff", "--name-only", "HEAD", "--", ".") or "").split("\n")) - {""}
    if (root / BEFORE).exists() and (root / BEFORE).read_text(encoding="utf-8") == _git(root, "show", f"HEAD:./{PARAMS_FILE}"):
        changed.discard(str(PARAMS_FILE))
    return described.strip() + ("+" if changed else "")


def _git(root: Path, *words: str) -> str | None:
    """Return what a git command prints, None when it fails or there is no git."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Return the installed versions of Python and of the packages that make the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return the processor, its cores, the memory in GiB and the GPUs of this machine."""
    import psutil

    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus(),
    }


def gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs the driver lists, without loading torch."""
    found: list[str] = []
    for place in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = place.read_text(encoding="utf-8").splitlines()
        found.extend(line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:"))
    return found


def _processor() -> str:
    """Return the processor's name as the kernel gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
