"""Where a stage trains is worked out from the machine and the environment, and never changes what it trains on."""

import base64
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.runtime.launch import MARK, Launch, Place, here, wanted
from tasks.runtime.params import UserError


@given(st.integers(1, 8), st.integers(1, 64), st.integers(0, 40))
def test_processes_and_passes_make_up_the_global_batch(processes, share, most):
    micro, passes = Place(processes).split(processes * share, most)
    assert processes * micro * passes == processes * share
    assert micro <= max(1, most)


@pytest.mark.parametrize(("batch", "processes"), [(16, 3), (1, 2), (7, 8)])
def test_a_batch_that_does_not_divide_is_refused(batch, processes):
    with pytest.raises(UserError, match=rf"batch_size: {batch} rows cannot be shared evenly by {processes} processes; use"):
        Place(processes).split(batch, 100)


def test_cpu_threads_are_shared_by_the_processes():
    assert [Place(processes).threads(2) for processes in (1, 2, 4)] == [2, 1, 1]
    assert Place(4, gpu=True).threads(2) == 2


@pytest.mark.parametrize(
    ("environment", "gpus", "launch"),
    [
        ({}, 0, None),
        ({"TEMPER_PROCESSES": "1"}, 0, None),
        ({"TEMPER_PROCESSES": "2"}, 0, Launch(2, 2)),
        ({"TEMPER_PROCESSES": "2", "TEMPER_ZERO": "1"}, 0, Launch(2, 1)),
        ({"TEMPER_ZERO": "3"}, 0, Launch(1, 3)),
        ({}, 1, Launch(1, 2)),
        ({}, 8, Launch(8, 2)),
        ({"TEMPER_PROCESSES": "4"}, 8, Launch(4, 2)),
        ({"TEMPER_ZERO": "0"}, 1, None),
    ],
)
def test_what_is_launched(environment, gpus, launch):
    assert wanted(environment, gpus) == launch


@pytest.mark.parametrize(
    ("environment", "gpus", "says"),
    [
        ({"TEMPER_PROCESSES": "two"}, 0, "TEMPER_PROCESSES='two': must be a number"),
        ({"TEMPER_PROCESSES": "0"}, 0, "TEMPER_PROCESSES=0: must be at least 1"),
        ({"TEMPER_PROCESSES": "4"}, 2, "at most 2, the GPUs here"),
        ({"TEMPER_ZERO": "4"}, 0, "TEMPER_ZERO=4: must be 1, 2 or 3"),
        ({"TEMPER_PROCESSES": "2", "TEMPER_ZERO": "0"}, 0, "TEMPER_ZERO=0: must be 1, 2 or 3"),
        ({"TEMPER_HOSTFILE": "none.txt"}, 0, "TEMPER_HOSTFILE=none.txt: no such file; write lines like"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(environment, gpus, says):
    with pytest.raises(UserError, match=says):
        wanted(environment, gpus)


def test_hosts_of_a_hostfile_need_no_gpu_here(tmp_path):
    (tmp_path / "hosts").write_text("worker-1 slots=8\nworker-2 slots=8\n")
    launch = wanted({"TEMPER_HOSTFILE": str(tmp_path / "hosts"), "TEMPER_ZERO": "3"}, 0)
    assert launch == Launch(1, 3, tmp_path / "hosts")
    command = launch.command("tasks.train.sft", ["--base", "b"])
    assert command[command.index("--hostfile") + 1] == str(tmp_path / "hosts")
    assert command[-6:] == [sys.executable, "-u", "-m", "tasks.train.sft", "--base", "b"]


def test_one_machine_is_launched_as_a_child_of_this_process(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    command = Launch(2, 2).command("tasks.train.sft", ["--base", "b"])
    assert command[1:3] == ["-m", "deepspeed.launcher.launch"]
    assert world_of(command) == {"localhost": [0, 1]}
    assert f"{MARK}=tasks.train.sft" in command
    assert "TEMPER_ZERO=2" in command


def test_only_the_visible_gpus_are_used(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    assert world_of(Launch(2, 2).command("tasks.train.sft", [])) == {"localhost": [2, 5]}


def world_of(command: list[str]) -> dict[str, list[int]]:
    coded = next(part.removeprefix("--world_info=") for part in command if part.startswith("--world_info="))
    return json.loads(base64.urlsafe_b64decode(coded))


def test_a_process_knows_its_place_from_its_launcher(monkeypatch):
    for name, value in {MARK: "tasks.train.sft", "WORLD_SIZE": "4", "RANK": "3", "TEMPER_ZERO": "2"}.items():
        monkeypatch.setenv(name, value)
    place = here()
    assert (place.processes, place.rank, place.zero, place.first) == (4, 3, 2, False)
    assert json.loads(open(place.zero_config).read())["zero_optimization"]["stage"] == 2


def test_a_process_that_nobody_launched_is_alone(monkeypatch):
    monkeypatch.delenv(MARK, raising=False)
    monkeypatch.setenv("TEMPER_CHECKPOINT_SECONDS", "0.5")
    assert (here().processes, here().first, here().zero_config, here().checkpoint_seconds) == (1, True, None, 0.5)
