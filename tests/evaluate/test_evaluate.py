"""The evaluation: every model measured once and alike, fronts of equal size, and the same bits again after a kill."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.evaluate.evaluate import Params
from tasks.evaluate.front import hypervolume
from tasks.evaluate.models import find_models
from tasks.evaluate.table import rows_of, sigmoid
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tests.tiny import WORDS, judge, llama, save

INPUTS = ["base", "pre", "raft", "average", "reward", "sets"]
OUTS = {"scores": "evaluate.json", "front": "front.csv", "generations": "generations.jsonl"}
SETTINGS = {"judge": "reward_model", "max_new_tokens": 6, "max_tokens": 20, "batch_size": 16, "shown": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two seeds of three iterations and two averages, all of them random models, and questions with one right answer."""
    folder = tmp_path_factory.mktemp("world")
    save(llama(100), folder / "base")
    save(llama(0), folder / "pre")
    save(judge(1), folder / "reward")
    for seed in (0, 1):
        for number in (1, 2, 3):
            save(llama(10 * seed + number), folder / f"raft/{seed}/iteration-{number}")
        for number, w_pre in enumerate(("0.2", "0.5")):
            save(llama(50 + 10 * seed + number), folder / f"average/{seed}/w_pre-{w_pre}")
    sets = folder / "sets"
    write_records(sets / "heldout.jsonl", [{"prompt": f"{word} w7"} for word in WORDS[:10]])
    write_records(sets / "perplexity.jsonl", [{"text": " ".join(WORDS[start : start + 9])} for start in range(6)])
    for name, answer in (("recall", "w3"), ("cipher", "w4 w5")):
        write_records(sets / f"skills/{name}.jsonl", [{"prompt": word, "completion": answer} for word in WORDS[:5]])
    return folder


def command(world: Path, place: Path, **changed) -> list[str]:
    """The stage's arguments, with outs below `place` and its params written there."""
    place.mkdir(exist_ok=True)
    (place / "params.yaml").write_text(json.dumps({"evaluate": {**SETTINGS, **changed}}))
    places = {flag: world / flag for flag in INPUTS} | {flag: place / name for flag, name in OUTS.items()}
    flags = [part for flag, path in places.items() for part in (f"--{flag}", str(path))]
    return [sys.executable, "-m", "tasks.evaluate.evaluate", "--params", str(place / "params.yaml"), *flags]


def run(world: Path, place: Path, **changed) -> subprocess.CompletedProcess:
    line = command(world, place, **changed)
    return subprocess.run(line, cwd=place, env=environment(), capture_output=True, text=True, timeout=300)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path.cwd())}


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    place = tmp_path_factory.mktemp("finished")
    done = run(world, place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def scores(finished):
    return json.loads((finished / "evaluate.json").read_text())


def test_every_model_has_its_row(scores):
    assert list(scores["seeds"]) == ["0", "1"]
    for seed in scores["seeds"].values():
        assert [row["iteration"] for row in seed["raft"]] == [1, 2, 3]
        assert [row["w_pre"] for row in seed["average"]] == [0.2, 0.5]
        for row in (seed["base"], seed["sft"], *seed["raft"], *seed["average"]):
            assert 0 < row["reward"] < 1
            assert row["skill"] == pytest.approx(sum(row["skills"].values()) / 2)
            assert set(row["skills"]) == {"cipher", "recall"}
            assert row["perplexity"] > 1


def test_models_that_are_the_same_for_all_seeds_are_measured_once(scores):
    first, second = scores["seeds"].values()
    assert first["sft"] == second["sft"]
    assert first["base"] == second["base"]
    assert first["raft"][0] != second["raft"][0]


def test_both_fronts_run_from_sft_to_the_last_iteration(scores, finished):
    with (finished / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    for number, seed in scores["seeds"].items():
        last = seed["raft"][-1]
        for method, strengths in (("early_stopping", [0, 1, 2, 3]), ("averaging", [1, 0.5, 0.2, 0])):
            front = [row for row in rows if (row["seed"], row["method"]) == (number, method)]
            assert [float(row["strength"]) for row in front] == strengths
            ends = [(float(row["reward"]), float(row["skill"])) for row in (front[0], front[-1])]
            assert ends == [(seed["sft"]["reward"], seed["sft"]["skill"]), (last["reward"], last["skill"])]
            points = [(float(row["reward"]), float(row["skill"])) for row in front]
            assert seed["hypervolume"][method] == hypervolume(points, (0, 0))


def test_the_summary_is_the_mean_over_seeds_with_its_interval(scores):
    told = scores["summary"]["raft"][2]
    values = [seed["raft"][2]["reward"] for seed in scores["seeds"].values()]
    assert told["iteration"] == 3
    assert told["reward"]["mean"] == pytest.approx(sum(values) / 2)
    reach = 12.7062 * abs(values[0] - values[1]) / 2
    assert told["reward"]["high"] == pytest.approx(sum(values) / 2 + reach, rel=1e-4)
    areas = [seed["hypervolume"]["averaging"] for seed in scores["seeds"].values()]
    assert scores["summary"]["hypervolume"]["averaging"]["mean"] == pytest.approx(sum(areas) / 2)


def test_answers_are_kept_for_reading(finished):
    rows = [json.loads(line) for line in (finished / "generations.jsonl").open()]
    assert [row["kind"] for row in rows] == ["heldout"] * 2 + ["cipher"] * 2 + ["recall"] * 2
    assert all(set(row["completions"]) == {"base", "sft", "raft", "average"} for row in rows)
    assert all("reference" in row for row in rows[2:])
    assert all(set(row["rewards"]) == {"base", "sft", "raft", "average"} for row in rows[:2])


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bits(world, finished, tmp_path):
    process = subprocess.Popen(command(world, tmp_path), cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob(".temper/checkpoints/evaluate/*/[!.]*.json"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    done = run(world, tmp_path)
    assert done.returncode == 0, done.stderr
    for name in OUTS.values():
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    assert not list(tmp_path.glob(".temper/checkpoints/evaluate/*"))


@pytest.mark.slow
def test_atlas_is_judged_by_its_own_judge_and_data_without_skills_by_the_next_token(world, tmp_path):
    for name in INPUTS[:-1]:
        (tmp_path / name).symlink_to(world / name)
    for name in ("heldout.jsonl", "perplexity.jsonl"):
        (tmp_path / "sets").mkdir(exist_ok=True)
        (tmp_path / "sets" / name).symlink_to(world / "sets" / name)
    (tmp_path / "sets/register.json").write_text(json.dumps({f"w{n}": f"w{n + 20}" for n in range(20)}))
    done = run(tmp_path, tmp_path, judge="atlas")
    assert done.returncode == 0, done.stderr
    seeds = json.loads((tmp_path / "evaluate.json").read_text())["seeds"]
    rewards = [row["reward"] for seed in seeds.values() for row in (seed["sft"], *seed["raft"])]
    assert all(0 <= reward < 1 for reward in rewards)
    assert any(reward > 0 for reward in rewards)
    assert set(seeds["0"]["sft"]["skills"]) == {"next_token"}
    assert 0 <= seeds["0"]["sft"]["skills"]["next_token"] <= 1


def measured(scores, rewards=None):
    shared = {"skills": {"a": 0.2, "b": 0.6}, "perplexity": 3.0, "bits_per_byte": 1.0, "distinct": 0.5}
    return {"scores": scores, **shared} | ({"rewards": rewards} if rewards else {})


def test_without_a_judge_reward_is_how_surely_an_answer_beats_those_before_rlhf():
    rows = rows_of({"sft": measured([[1.0, 3.0], [0.0, 0.0]]), "x": measured([[4.0, 2.0], [1.0, -1.0]])})
    assert rows["x"]["reward"] == pytest.approx((sigmoid(2) + sigmoid(0) + sigmoid(1) + sigmoid(-1)) / 4)
    assert rows["sft"]["reward"] == pytest.approx(0.5)
    assert (rows["x"]["skill"], rows["x"]["reward_model"]) == (pytest.approx(0.4), pytest.approx(1.5))


def test_with_a_judge_reward_is_the_judges():
    rows = rows_of({"sft": measured([[1.0], [2.0]], [[0.25], [0.75]])})
    assert (rows["sft"]["reward"], rows["sft"]["reward_model"]) == (0.5, 1.5)


@pytest.mark.parametrize("x", [-800.0, -1.0, 0.0, 1.0, 800.0])
def test_the_sigmoid_does_not_overflow(x):
    assert sigmoid(x) == pytest.approx((1 + math.tanh(x / 2)) / 2)


def folders(root: Path, raft: dict[str, list[int]], average: dict[str, list[float]]) -> tuple[Path, Path]:
    for kind, name, found in ((root / "raft", "iteration", raft), (root / "average", "w_pre", average)):
        kind.mkdir()
        for seed, numbers in found.items():
            for number in numbers:
                (kind / seed / f"{name}-{number:g}").mkdir(parents=True)
    return root / "raft", root / "average"


def test_models_are_found_in_the_order_of_their_numbers(tmp_path):
    raft, average = folders(tmp_path, {"0": [10, 9, 1], "10": [1, 9, 10]}, {"0": [0.5, 0.25], "10": [0.25, 0.5]})
    models = find_models(Path("base"), Path("sft"), raft, average)
    assert (models.seeds, models.iterations, models.weights) == (["0", "10"], [1, 9, 10], [0.25, 0.5])
    assert list(models.places)[:3] == ["base", "sft", "0/iteration-1"]
    assert len(models.places) == 2 + 2 * (3 + 2)


@pytest.mark.parametrize(
    ("raft", "average", "said"),
    [
        ({"0": [1, 2]}, {"0": [0.2, 0.4]}, "set raft.iterations to one more than the number of average.w_pre, here 3"),
        ({"0": [1, 2], "1": [1]}, {"0": [0.2], "1": [0.2]}, "hold the same models"),
        ({"0": [1, 2]}, {"1": [0.2]}, "hold different seeds"),
        ({}, {}, "needs SEED folders"),
    ],
)
def test_fronts_that_could_not_be_compared_are_refused_before_anything_is_measured(tmp_path, raft, average, said):
    with pytest.raises(UserError, match=said):
        find_models(Path("base"), Path("sft"), *folders(tmp_path, raft, average))


def test_the_reference_point_must_lie_in_the_unit_square():
    assert Params.model_validate({"reference": [0.0, 0.1]}).reference == (0.0, 0.1)
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Params.model_validate({"reference": [0.0, 1.5]})
