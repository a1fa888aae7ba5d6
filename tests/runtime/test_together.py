"""Several stages by one command: in turn, each a process of its own with its own exit code; a stop reaches the one at work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.runtime.together import split

ROOT = Path(__file__).parents[2]
TOY = """
import os, sys, time
from typing import ClassVar
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.stage import Out, Run, run_stage

class Params(StageParams):
    section: ClassVar[str] = "toy"
    seconds: float = 0.0
    fault: bool = False

def main(params: Params, run: Run, *, out: Out) -> None:
    if params.fault:
        raise UserError("as told")
    out.write_text(f"{os.getpid()} {os.getppid()} {'torch' in sys.modules}")
    time.sleep(params.seconds)

if __name__ == "__main__":
    run_stage(main)
"""


def start(folder: Path, *commands: str) -> subprocess.Popen:
    """Start the commands together in `folder`, as DVC does."""
    (folder / "toy.py").write_text(TOY)
    (folder / "params.yaml").write_text("toy: {}\n")
    words = [word for command in commands for word in ("--", "toy", *command.split())]
    line = [sys.executable, "-m", "tasks.runtime.together", *words]
    variables = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    return subprocess.Popen(line, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True)


def test_words_are_parted_into_commands():
    assert split(["--", "a", "--out", "b", "--", "c"]) == [["a", "--out", "b"], ["c"]]


@pytest.mark.parametrize("line", [[], ["toy"], ["--"], ["--", "toy", "--"]])
def test_a_line_without_commands_is_refused(line):
    done = subprocess.run([sys.executable, "-m", "tasks.runtime.together", *line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_stages_run_in_turn_as_processes_of_their_own_that_share_the_imports(tmp_path):
    running = start(tmp_path, "--out one", "--out two --cell two")
    said = running.communicate(timeout=120)[1]
    assert running.returncode == 0, said
    one, two = ((tmp_path / name).read_text().split() for name in ("one", "two"))
    assert one[0] != two[0]
    assert one[1:] == two[1:] == [str(running.pid), "True"]
    assert said.index("toy: done") < said.index("toy@two: done")


def test_the_first_that_fails_ends_the_command_with_its_code(tmp_path):
    running = start(tmp_path, "--out one --set fault=true", "--out two")
    said = running.communicate(timeout=120)[1]
    assert running.returncode == 2
    assert "as told" in said
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_a_stop_reaches_the_stage_at_work_and_none_is_started_after_it(tmp_path, number, code):
    running = start(tmp_path, "--out one --set seconds=60", "--out two --cell two")
    while not (tmp_path / "one").exists() or not (tmp_path / "one").read_text():
        time.sleep(0.05)
    running.send_signal(number)
    assert running.wait(timeout=60) == code
    assert "toy@two" not in running.stderr.read()  # which ends once the stage has closed its files, its last act but one
    stage = Path(f"/proc/{(tmp_path / 'one').read_text().split()[0]}/stat")
    until = time.monotonic() + 30
    while (going := is_going(stage)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not going
    assert not (tmp_path / "two").exists()


def is_going(stage: Path) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return stage.read_text().split()[2] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
