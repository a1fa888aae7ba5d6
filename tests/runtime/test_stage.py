"""The stage contract, seen from outside: a real stage process, its flags, exit codes and last line."""

import os
import signal
import subprocess
import sys
import time

import pytest

STAGE = '''
"""A stage made for the test."""
import time
from typing import ClassVar
from pydantic import Field
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish_json
from tasks.runtime.stage import In, Out, Run, run_stage

class Params(StageParams):
    section: ClassVar[str] = "toy"
    mode: str = "fine"
    seconds: float = Field(0.0, ge=0)

def main(params: Params, run: Run, *, source: In, out: Out) -> None:
    time.sleep(params.seconds)
    if params.mode == "mistake":
        raise UserError("rows.jsonl:3: not a record")
    if params.mode == "broken":
        raise RuntimeError("came apart")
    publish_json(out, {"identity": run.identity, "token": run.lease.token})

if __name__ == "__main__":
    run_stage(main)
'''


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "toy.py").write_text(STAGE)
    (tmp_path / "in.txt").write_text("data")

    def start(*more, mode="fine", seconds=0.0, source="in.txt", section="toy"):
        (tmp_path / "params.yaml").write_text(f"{section}: {{mode: {mode}, seconds: {seconds}}}\n")
        command = [sys.executable, "-m", "toy", "--source", source, "--out", "out.json", *more]
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    start.out = tmp_path / "out.json"
    start.source = tmp_path / "in.txt"
    start.at_work = lambda: (tmp_path / ".temper/work/toy/lease").exists() and (tmp_path / ".temper/work/toy/lease").read_text()
    return start


def wait_for(true) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def test_a_good_run_publishes_and_ends_with_zero(toy):
    process = toy()
    assert process.communicate()[1].splitlines()[-1].startswith("toy: done in")
    assert process.returncode == 0
    assert toy.out.exists()


@pytest.mark.parametrize(
    ("how", "code", "last"),
    [
        ({"mode": "mistake"}, 2, "toy: rows.jsonl:3: not a record"),
        ({"mode": "broken"}, 1, "toy: RuntimeError: came apart"),
        ({"source": "none.txt"}, 2, "--source none.txt: no such file or folder; run the stage that makes it first"),
        ({"section": "top"}, 2, "params.yaml: section 'toy' is missing"),
        ({"seconds": -1}, 2, "toy.seconds: Input should be greater than or equal to 0"),
    ],
)
def test_the_exit_code_and_last_line_say_what_happened(toy, how, code, last):
    process = toy(**how)
    error = process.communicate()[1]
    assert process.returncode == code
    assert last in error.splitlines()[-1]
    assert not toy.out.exists()


def test_sigterm_ends_with_the_preempted_code(toy):
    process = toy(seconds=30)
    wait_for(toy.at_work)
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in process.communicate()[1]
    assert process.returncode == 75


def test_two_at_once_the_second_is_refused_naming_the_first(toy):
    first = toy(seconds=30)
    wait_for(toy.at_work)
    second = toy(seconds=30)
    assert f"toy is already being run by 1 pid {first.pid}" in second.communicate()[1]
    assert second.returncode == 2
    first.kill()
    first.wait()
    assert toy().wait() == 0, "a killed holder leaves no lease behind"


def test_identity_follows_params_and_data_and_nothing_else(toy):
    def identity(**how):
        assert toy(**how).wait() == 0
        return toy.out.read_text().split('"')[3]

    first = identity()
    assert identity() == first
    assert identity(seconds=0.01) != first
    toy.source.write_text("other data")
    assert identity() != first


def test_what_is_set_on_the_command_line_makes_a_cell_with_a_name_of_its_own(toy):
    process = toy("--set", "mode=broken", "--cell", "broken")
    assert process.communicate()[1].splitlines()[-1] == "toy@broken: RuntimeError: came apart"
    process = toy("--set", "seconds=soon")
    assert "params.yaml --set seconds=soon: toy.seconds: Input should be a valid number" in process.communicate()[1]
    process = toy("--set", "seconds")
    assert process.communicate()[1].endswith("--set seconds: must be KEY=VALUE, a key of section 'toy'\n")


def test_the_stage_dies_with_its_parent(toy, tmp_path):
    """`kill -9` of dvc must not leave the training it started behind."""
    (tmp_path / "params.yaml").write_text("toy: {seconds: 60}\n")
    shell = (
        f"import os, subprocess, sys, time; os.chdir({str(tmp_path)!r})\n"
        "child = subprocess.Popen([sys.executable, '-m', 'toy', '--source', 'in.txt', '--out', 'out.json'])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"}
    parent = subprocess.Popen([sys.executable, "-c", shell], stdout=subprocess.PIPE, text=True, env=environment)
    pid = int(parent.stdout.readline())
    wait_for(toy.at_work)
    parent.kill()
    parent.wait()
    for _ in range(50):
        if not os.path.exists(f"/proc/{pid}") or "zombie" in open(f"/proc/{pid}/status").read():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the stage outlived its parent by 5 s")
