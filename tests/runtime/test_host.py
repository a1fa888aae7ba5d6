"""The warm process: a stage forked from it runs and ends as if it had been started by itself, and dies with its caller."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.runtime.host import HOST

ROOT = Path(__file__).parents[2]
TOY = """
import json, os, sys, time
from typing import ClassVar
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.stage import Out, Run, run_stage

class Params(StageParams):
    section: ClassVar[str] = "toy"
    seconds: float = 0.0
    fault: str = ""

def main(params: Params, run: Run, *, out: Out) -> None:
    if params.fault == "user's":
        raise UserError("as told")
    if params.fault == "ours":
        raise RuntimeError("as told")
    if params.fault == "killed":
        os.kill(os.getpid(), 9)
    facts = {"pid": os.getpid(), "parent": os.getppid(), "warm": "torch" in sys.modules, "place": os.getcwd(),
             "word": os.environ.get("WORD"), "host": os.environ.get("TEMPER_HOST"), "identity": run.identity}
    out.write_text(json.dumps(facts))
    print("told", flush=True)
    time.sleep(params.seconds)

if __name__ == "__main__":
    run_stage(main)
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A host that is ready: its process and its socket. It imports, so all tests share it."""
    place = tmp_path_factory.mktemp("h") / "host"
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "tasks.runtime.host", str(place)], cwd=ROOT, env=variables)
    wait_for(place.exists)
    yield process, place
    process.kill()
    process.wait()


@pytest.fixture
def stage(tmp_path, host):
    """Start the stage `toy` in a folder of its own, as DVC does, with the host at its socket unless another is named."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "params.yaml").write_text("toy: {}\n")

    def _start(*arguments: str, place: Path = host[1]) -> subprocess.Popen[str]:
        variables = os.environ | {"PYTHONPATH": f"{ROOT}", HOST: str(place), "WORD": "given"}
        command = [sys.executable, "-m", "toy", "--out", "out", *arguments]
        return subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return _start


def wait_for(true, patience: float = 120) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def facts(folder: Path) -> dict:
    wait_for(lambda: (folder / "out").exists() and (folder / "out").read_text().endswith("}"))
    return json.loads((folder / "out").read_text())


def test_a_stage_is_forked_warm_in_its_own_folder_environment_and_output(stage, host, tmp_path):
    running = stage()
    said, complained = running.communicate(timeout=120)
    found = facts(tmp_path)
    assert running.returncode == 0, complained
    assert found["parent"] == host[0].pid
    assert found["warm"]
    assert found["place"] == str(tmp_path)
    assert (found["word"], found["host"]) == ("given", None)
    assert said == "told\n"
    assert "toy: done" in complained


def test_it_has_the_identity_it_would_have_alone(stage, tmp_path):
    stage().communicate(timeout=120)
    hosted = facts(tmp_path)
    (tmp_path / "out").unlink()
    stage(place=tmp_path / "nowhere").communicate(timeout=120)
    alone = facts(tmp_path)
    assert hosted["identity"] == alone["identity"]
    assert (hosted["warm"], alone["warm"]) == (True, False)


@pytest.mark.parametrize(("fault", "code"), [("user's", 2), ("ours", 1), ("killed", 128 + signal.SIGKILL)])
def test_it_ends_as_its_process_ended(stage, fault, code):
    running = stage("--set", f"fault={fault}")
    complained = running.communicate(timeout=120)[1]
    assert running.returncode == code
    assert fault == "killed" or "as told" in complained


def test_its_code_is_read_anew_each_time(stage, tmp_path):
    assert stage().communicate(timeout=120)[0] == "told\n"
    (tmp_path / "toy.py").write_text(TOY.replace("told", "told otherwise"))
    assert stage().communicate(timeout=120)[0] == "told otherwise\n"


def test_a_stop_reaches_it(stage, tmp_path):
    running = stage("--set", "seconds=60")
    facts(tmp_path)
    running.terminate()
    assert running.wait(timeout=60) == 75
    assert "stopped by SIGTERM" in running.stderr.read()


def test_it_dies_with_its_caller(stage, tmp_path):
    running = stage("--set", "seconds=60")
    process = psutil.Process(facts(tmp_path)["pid"])
    running.kill()
    running.wait()
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, patience=10)


def test_several_are_at_work_at_once(stage, tmp_path):
    one, two = stage("--cell", "1", "--set", "seconds=2"), stage("--cell", "2", "--set", "seconds=0")
    assert two.wait(timeout=120) == 0
    assert one.wait(timeout=120) == 0


def test_one_that_leaves_without_a_word_costs_nothing(stage, host):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.connect(str(host[1]))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.connect(str(host[1]))
        caller.send(b"what?")
    running = stage()
    assert running.communicate(timeout=120)[0] == "told\n"


def test_a_lost_host_is_a_lost_process_not_a_failure(stage, host, tmp_path):
    """Last: it ends the host. The code is that of a killed process, which the flow starts again, by itself."""
    running = stage("--set", "seconds=60")
    process = psutil.Process(facts(tmp_path)["pid"])
    host[0].kill()
    assert running.wait(timeout=60) == 128 + signal.SIGKILL
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, patience=10)
    assert stage().wait(timeout=120) == 0
