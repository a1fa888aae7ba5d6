"""Whole runs, in copies of this project: each as a user would start it, from files git knows and nothing else."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.runtime.imports import ROOT

Command = Callable[..., subprocess.CompletedProcess[str]]


def copy_project(place: Path) -> Path:
    """Copy what git tracks, as it stands in the working tree, into a fresh repository at `place`."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in listed:
        if not name.startswith(("tests/", "docs/")) and (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)
    who = ["-c", "user.name=tester", "-c", "user.email=tester@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "A copy"]):
        subprocess.run(["git", *command], cwd=place, check=True)
    return place


def start(checkout: Path, *command: str, **options) -> subprocess.CompletedProcess[str]:
    """Run `python -m COMMAND` in a checkout, as in an activated environment, with no Prefect API configured from outside."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "TEMPER_PROCESSES"))}
    environment |= {"COLUMNS": "160", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=checkout, env=environment, capture_output=True, text=True, **options
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh copy of the project."""
    return copy_project(tmp_path / "temper")


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The smallest size, run once for all tests through `temper run --profile smoke`: its checkout and how it ended."""
    place = copy_project(tmp_path_factory.mktemp("smoke") / "temper")
    return place, start(place, "flows.cli", "run", "--profile", "smoke", timeout=900)
