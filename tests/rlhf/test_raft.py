"""RAFT: reward rises along the iterations, all of them are kept, and a killed run ends with the bits of one that was not."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.rlhf.raft import Params, iterate
from tasks.rlhf.rounds import Task, train
from tasks.runtime.lease import Lease
from tasks.runtime.models import load_causal
from tasks.runtime.params import UserError, check_section
from tasks.runtime.records import Prompt, read_records, write_records
from tasks.runtime.stage import Run
from tests.tiny import WORDS, judge, llama, save

SMALL = {"iterations": 3, "prompts": 8, "samples": 4, "max_new_tokens": 6, "batch_size": 4, "generate_batch": 16}
FLAGS = ["policy", "reward", "sets", "out", "scores", "curve"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A policy, a reward model and prompts."""
    folder = tmp_path_factory.mktemp("world")
    save(llama(), folder / "policy")
    save(judge(1), folder / "reward")
    write_records(folder / "sets/prompts.jsonl", [{"prompt": f"{word} {other}"} for word in WORDS[:5] for other in WORDS[:4]])
    return folder


def command(world: Path, place: Path, **changed) -> list[str]:
    """The stage's arguments, with outs below `place` and its params written there."""
    place.mkdir(exist_ok=True)
    params = {**SMALL, "seeds": [0, 1], "learning_rate": 1e-2, **changed}
    (place / "params.yaml").write_text(json.dumps({"raft": params}))
    places = {flag: world / flag for flag in FLAGS[:3]} | {"out": place / "raft"}
    places |= {"scores": place / "raft.json", "curve": place / "raft.csv"}
    return ["--params", str(place / "params.yaml"), *(part for flag in FLAGS for part in (f"--{flag}", str(places[flag])))]


def run(world: Path, place: Path, **changed) -> subprocess.CompletedProcess:
    """Run the stage as DVC does, in a folder of its own."""
    line = [sys.executable, "-m", "tasks.rlhf.raft", *command(world, place, **changed)]
    return subprocess.run(line, cwd=place, env=environment(), capture_output=True, text=True, timeout=300)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path.cwd())}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    place = tmp_path_factory.mktemp("finished")
    done = run(world, place)
    assert done.returncode == 0, done.stderr
    return place


def rows(place: Path) -> list[dict[str, float]]:
    with (place / "raft.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_every_iteration_of_every_seed_is_a_model_that_loads(finished):
    folders = sorted(str(path.parent.relative_to(finished / "raft")) for path in (finished / "raft").rglob("model.safetensors"))
    assert folders == [f"{seed}/iteration-{number}" for seed in (0, 1) for number in (1, 2, 3)]
    model, _ = load_causal(finished / "raft/1/iteration-3")
    assert model.num_parameters() == llama().num_parameters()
    kept = [json.loads(line) for line in (finished / "raft/1/iteration-3/kept.jsonl").open()]
    assert len(kept) == 8
    assert all(answer["completion"].strip() for answer in kept)


def test_the_curve_has_a_row_for_each_and_the_kept_are_the_better_ones(finished):
    curve = rows(finished)
    assert [(row["seed"], row["iteration"]) for row in curve] == [(seed, number) for seed in (0, 1) for number in (1, 2, 3)]
    assert all(row["kept_reward"] > row["reward"] for row in curve)
    assert all(0 < row["distinct"] <= 1 for row in curve)
    assert [row["drift"] for row in curve if row["iteration"] == 1] == [0, 0]
    assert all(row["drift"] > 0 for row in curve if row["iteration"] > 1)


def test_scores_repeat_the_curve_by_seed(finished):
    scores = json.loads((finished / "raft.json").read_text())
    assert scores["seeds"]["1"]["reward"] == [row["reward"] for row in rows(finished) if row["seed"] == 1]
    assert scores["last_reward"] == pytest.approx(sum(row["reward"] for row in rows(finished) if row["iteration"] == 3) / 2)


def task(world, place, monkeypatch, **changed) -> Task:
    """What one seed needs to be trained in this process, with its checkpoints below `place`."""
    monkeypatch.chdir(place)
    prompts = [record.prompt for record in read_records(world / "sets/prompts.jsonl", Prompt)]
    params = Params(**{**SMALL, "learning_rate": 1e-2, **changed})
    return Task(params, Run("raft", "identity", Lease(place, "raft")), world / "policy", world / "reward", prompts)


def test_reward_rises(world, tmp_path, monkeypatch):
    work = task(world, tmp_path, monkeypatch, iterations=5, prompts=20, samples=8)
    train(work, iterate, 0)
    course = [json.loads((work.checkpoints(0).place(number) / "scores.json").read_text())["reward"] for number in range(1, 6)]
    assert course[-1] > course[0] + 0.1 * abs(course[0])


def test_seeds_differ(finished):
    one, other = (load_file(finished / f"raft/{seed}/iteration-1/model.safetensors") for seed in (0, 1))
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_again_gives_the_same_bits(world, finished, tmp_path):
    assert run(world, tmp_path).returncode == 0
    assert content(tmp_path / "raft") == content(finished / "raft")
    assert (tmp_path / "raft.json").read_bytes() == (finished / "raft.json").read_bytes()
    assert not list((tmp_path / ".temper/checkpoints").rglob("*.safetensors")), "checkpoints go once the out is there"


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_run_again_gives_the_bits_of_an_uninterrupted_run(world, finished, tmp_path, stop):
    line = [sys.executable, "-m", "tasks.rlhf.raft", *command(world, tmp_path)]
    process = subprocess.Popen(line, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".temper/checkpoints/raft/*/seed-*/step-00000001/complete")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(stop)
    code = process.wait(timeout=60)
    assert code == (75 if stop is signal.SIGTERM else -signal.SIGKILL), process.stderr.read()
    assert not (tmp_path / "raft").exists()
    done = run(world, tmp_path)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "raft") == content(finished / "raft")
    assert (tmp_path / "raft.csv").read_bytes() == (finished / "raft.csv").read_bytes()


def test_a_finished_iteration_is_not_done_again_and_a_damaged_one_is(world, tmp_path, monkeypatch):
    work = task(world, tmp_path, monkeypatch)
    train(work, iterate, 0)
    whole = content(tmp_path / ".temper/checkpoints")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step-*/complete")}
    damaged = work.checkpoints(0).place(2)
    (damaged / "model/model.safetensors").write_bytes(b"half")
    train(work, iterate, 0)
    assert {path.parent for path, time in times.items() if path.stat().st_mtime_ns != time} == {damaged.resolve()}
    assert content(tmp_path / ".temper/checkpoints") == whole


def test_a_reward_model_that_gives_no_number_ends_it_with_its_reason(world, tmp_path, monkeypatch):
    broken = judge(1)
    with torch.no_grad():
        broken.score.weight.fill_(float("nan"))
    work = replace(task(world, tmp_path, monkeypatch), reward=save(broken, tmp_path / "reward"))
    with pytest.raises(UserError, match="the reward model gives nan"):
        train(work, iterate, 0)
    assert work.checkpoints(0).steps() == []


def test_a_policy_that_says_nothing_ends_it_with_its_reason(world, tmp_path, monkeypatch):
    mute = llama()
    mute.generation_config.eos_token_id = list(range(44))
    with pytest.raises(UserError, match="iteration 1: every answer is blank"):
        train(replace(task(world, tmp_path, monkeypatch), policy=save(mute, tmp_path / "policy")), iterate, 0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"seeds": [1, 1]}, "every seed may stand only once"),
        ({"seeds": []}, "at least 1 item"),
        ({"temperature": 0}, "greater than 0"),
        ({"samples": 1}, "greater than or equal to 2"),
    ],
)
def test_params_that_make_no_sense_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        check_section(Params, {"raft": values}, "params.yaml")
