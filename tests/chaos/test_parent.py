"""A stage goes with whoever started it, at whatever moment that dies; and one whose part was killed is worth another attempt."""

import os
import signal
import subprocess
import sys
import time

import psutil

from tasks.runtime.extensions import stale_locks
from tasks.runtime.imports import ROOT
from tasks.runtime.stage import Lost, die_with_parent, exit_code

STARTED = (
    "import sys, time; sys.stdin.readline(); from tasks.runtime.stage import die_with_parent; die_with_parent(); time.sleep(99)"
)


def family(code: str):
    """Start a leader of a session that starts one child by `code`, which waits for a line; return both."""
    parent = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {code!r}], stdin=0)
print(child.pid, flush=True)
child.wait()
"""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    leader = subprocess.Popen([sys.executable, "-c", parent], env=variables, text=True, start_new_session=True, **pipes)
    return leader, psutil.Process(int(leader.stdout.readline()))


def gone(process: psutil.Process) -> bool:
    try:
        process.wait(20)
    except psutil.TimeoutExpired:
        return False
    return True


def test_one_whose_parent_died_before_it_could_ask_to_die_with_it_is_no_orphan():
    """`kill -9` of dvc while its stage still loads: nobody would tell the stage."""
    leader, child = family(STARTED)
    leader.kill()
    leader.wait()
    assert child.is_running()
    leader.stdin.write("go on\n")
    leader.stdin.flush()
    assert gone(child)


def test_one_whose_parent_lives_lives():
    leader, child = family(STARTED)
    leader.stdin.write("go on\n")
    leader.stdin.flush()
    time.sleep(1)
    assert child.is_running()
    leader.kill()
    leader.wait()
    assert gone(child)


def test_a_forked_one_names_its_parent():
    """The parent that it names is not the one it has: that one is gone."""
    if (process := os.fork()) == 0:
        die_with_parent(parent=1 if os.getppid() != 1 else 2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def test_a_part_lost_to_a_signal_makes_the_stage_worth_another_attempt(capsys):
    def lost():
        raise Lost("seed 3 ended with -9")

    assert exit_code(lost, "raft") == 128 + signal.SIGKILL
    assert capsys.readouterr().err == "raft: seed 3 ended with -9\n"


def test_a_lock_of_a_killed_build_is_told_from_one_at_work(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "cpu_adam/lock"
    lock.parent.mkdir()
    with lock.open("x"):
        assert stale_locks() == []
    assert stale_locks() == [lock]
