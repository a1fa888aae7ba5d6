"""The proxy set: the model's own answers, the highest rewards among them, drawn without repetition; never an empty file."""

import json
import random
from contextlib import chdir
from pathlib import Path

import pytest

from tasks.rlhf import proxy
from tasks.rlhf.proxy import Params, Task, build, choose
from tasks.runtime.lease import Lease
from tasks.runtime.params import UserError, check_section
from tasks.runtime.posts import ScoredAnswer
from tasks.runtime.records import read_records, write_records
from tasks.runtime.stage import Run
from tests.tiny import WORDS, judge, llama, save

SMALL = {"prompts": 10, "samples": 4, "max_new_tokens": 6, "best": 16, "draw": 8}
FUNCTION = "tasks.runtime.judges:distinct_words"


def distinct(text: str) -> float:
    """The function's second implementation."""
    return len(set(text.split())) / len(text.split())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two seeds of a policy after RLHF, a reward model and prompts."""
    folder = tmp_path_factory.mktemp("world")
    for seed in (0, 1):
        save(llama(seed), folder / f"raft/{seed}/iteration-2")
        (folder / f"raft/{seed}/iteration-1").mkdir()
    save(judge(2), folder / "reward")
    write_records(folder / "sets/prompts.jsonl", [{"prompt": f"{one} {other}"} for one in WORDS[:4] for other in WORDS[:4]])
    return folder


def run(world: Path, place: Path, post: Path | None = None, **changed) -> Path:
    """Run the stage in this process below `place`; return its out."""
    params = Params(**{**SMALL, "reward": FUNCTION, **changed})
    place.mkdir(exist_ok=True)
    with chdir(place), Lease(place / ".temper/work", "proxy") as lease:
        inputs = {"post": post or world / "raft", "reward": world / "reward", "sets": world / "sets"}
        proxy.main(params, Run("proxy", "identity", lease), **inputs, out=place / "proxy", scores=place / "proxy.json")
    return place / "proxy"


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    return run(world, tmp_path_factory.mktemp("finished"))


def test_every_seed_has_its_file_of_answers_with_their_rewards(world, finished):
    assert sorted(path.name for path in finished.iterdir()) == ["0.jsonl", "1.jsonl"]
    prompts = {json.loads(line)["prompt"] for line in (world / "sets/prompts.jsonl").open()}
    for seed in (0, 1):
        rows = [json.loads(line) for line in (finished / f"{seed}.jsonl").open()]
        assert len(rows) == 8
        for row in rows:
            assert list(row) == ["prompt", "response", "reward", "seed"]
            assert row["prompt"] in prompts
            assert row["reward"] == distinct(row["response"])
            assert row["seed"] == seed
    assert (finished / "0.jsonl").read_bytes() != (finished / "1.jsonl").read_bytes()


def test_scores_say_what_the_choice_gained(finished):
    scores = json.loads(finished.with_suffix(".json").read_text())
    assert (scores["drawn"], list(scores["seeds"])) == (8, ["0", "1"])
    assert 0 < scores["answers"] <= 40, "blank ones are left out"
    drawn = [record.reward for record in read_records(finished / "1.jsonl", ScoredAnswer)]
    assert scores["seeds"]["1"]["drawn_reward"] == pytest.approx(sum(drawn) / 8)
    assert scores["drawn_reward"] > scores["reward"]


def test_again_gives_the_same_bytes_and_leaves_no_checkpoint(world, finished, tmp_path):
    again = run(world, tmp_path)
    assert all((again / file).read_bytes() == (finished / file).read_bytes() for file in ("0.jsonl", "1.jsonl"))
    assert not list(tmp_path.glob(".temper/checkpoints/**/*.jsonl"))


def test_a_single_model_has_one_file_scored_by_the_reward_model(world, tmp_path):
    out = run(world, tmp_path, world / "raft/0/iteration-2", reward="model", seed=3)
    records = read_records(out / "proxy.jsonl", ScoredAnswer)
    assert {record.seed for record in records} == {3}
    assert len({record.reward for record in records}) > 1


def test_only_answers_with_the_highest_rewards_are_drawn_each_once():
    answers = [ScoredAnswer(prompt="p", response=f"r{number}", reward=float(number % 10), seed=0) for number in range(40)]
    drawn = choose(answers, Params(best=8, draw=6), random.Random(0))
    assert len({answer.response for answer in drawn}) == 6
    assert {answer.reward for answer in drawn} == {8.0, 9.0}
    few = choose(answers[:3], Params(best=8, draw=6), random.Random(0))
    assert sorted(few, key=lambda answer: answer.response) == answers[:3]


def test_of_equal_rewards_not_always_the_first_are_kept():
    answers = [ScoredAnswer(prompt="p", response=str(number), reward=1.0, seed=0) for number in range(30)]
    kept = {answer.response for seed in range(10) for answer in choose(answers, Params(best=3, draw=3), random.Random(seed))}
    assert len(kept) > 10


def test_a_model_that_is_done_is_not_sampled_again(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    post = {"0": world / "raft/0/iteration-2"}
    task = Task(
        Params(**SMALL, reward=FUNCTION), Run("proxy", "identity", Lease(tmp_path, "proxy")), post, tmp_path, ["w1", "w2"]
    )
    build(task, "0")
    marker = task.checkpoints("0").place(1) / "complete"
    before = marker.stat().st_mtime_ns
    build(task, "0")
    assert marker.stat().st_mtime_ns == before


def test_a_model_that_says_nothing_makes_no_empty_set(world, tmp_path, capfd):
    mute = llama()
    mute.generation_config.eos_token_id = list(range(44))
    save(mute, tmp_path / "mute")
    with pytest.raises(UserError, match="ended with 2"):
        run(world, tmp_path, tmp_path / "mute")
    assert "every answer is blank, so the proxy set would be empty" in capfd.readouterr().err
    assert not (tmp_path / "proxy").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [({"draw": 0}, "proxy.draw"), ({"temperature": 0}, "greater than 0"), ({"keep": 5}, "proxy.keep: unknown key")],
)
def test_params_that_make_no_sense_are_refused_by_name(values, said):
    with pytest.raises(UserError, match=said):
        check_section(Params, {"proxy": values}, "params.yaml")
