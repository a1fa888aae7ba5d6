"""A GPU is lent to one stage at a time, and a stage sees what it was lent."""

import os
import subprocess
import sys
import threading

import pytest

from flows.workers import gpus
from flows.workers.gpus import VISIBLE, Stopped, devices, lent
from tasks.runtime.params import UserError
from tests.flows.test_stage import wait_for

HOLD = "from flows.workers.gpus import lent\nwith lent(1, bool, print) as env:\n  print(env, flush=True)\n  input()"


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine of two GPUs, as far as its environment says."""
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(VISIBLE, "0, GPU-7")


def never() -> bool:
    return False


def test_two_stages_have_two_gpus(capsys):
    with lent(1, never, print) as first, lent(1, never, print) as second:
        assert (first, second) == ({VISIBLE: "0"}, {VISIBLE: "GPU-7"})
    with lent(2, never, print) as both:
        assert both == {VISIBLE: "0,GPU-7"}


def test_a_third_waits_until_one_is_free_and_says_so(monkeypatch):
    monkeypatch.setattr(gpus, "LOOK", 0.01)
    said, got = [], []

    def third() -> None:
        with lent(1, never, said.append) as env:
            got.append(env[VISIBLE])

    with lent(1, never, print):
        with lent(1, never, print):
            waiting = threading.Thread(target=third)
            waiting.start()
            wait_for(lambda: said)
            assert not got
        waiting.join(timeout=30)
    assert got == ["GPU-7"]
    assert said == ["waiting for 1 of the GPUs 0, GPU-7: others hold them"]


def test_one_that_wants_both_holds_none_while_it_waits(monkeypatch):
    monkeypatch.setattr(gpus, "LOOK", 0.01)
    stop = threading.Event()
    ended = []

    def greedy() -> None:
        try:
            with lent(2, stop.is_set, lambda _: None):
                ended.append("got them")
        except Stopped:
            ended.append("stopped")

    with lent(1, never, print):
        waiting = threading.Thread(target=greedy)
        waiting.start()
        with lent(1, never, print) as other:
            assert other == {VISIBLE: "GPU-7"}
        stop.set()
        waiting.join(timeout=30)
    assert ended == ["stopped"]


def test_who_asks_for_none_waits_for_nobody():
    with lent(2, never, print), lent(0, never, print) as env:
        assert env == {}


def test_more_than_there_are_is_refused():
    with pytest.raises(UserError, match="3 GPUs asked for .* this worker has 2"), lent(3, never, print):
        pass


def test_without_gpus_nothing_is_pinned(monkeypatch):
    monkeypatch.setenv(VISIBLE, "")
    assert devices() == []
    with lent(1, never, print) as env:
        assert env == {}


def test_the_lease_of_a_killed_holder_heals_itself(tmp_path):
    variables = os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert "'0'" in holder.stdout.readline()
        with lent(1, never, print) as env:
            assert env == {VISIBLE: "GPU-7"}
        holder.kill()
    with lent(1, never, print) as env:
        assert env == {VISIBLE: "0"}
