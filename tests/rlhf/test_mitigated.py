"""The rivals of averaging on tiny models: every method publishes a plain model, and what it is given must make sense."""

import csv
import json
from pathlib import Path

import pytest
import torch

from tasks.rlhf.answers import encode, learn
from tasks.rlhf.mitigated import ORDER, Params, main
from tasks.runtime.lease import Lease
from tasks.runtime.models import derive, load_causal
from tasks.runtime.params import UserError, check_section
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tests.tiny import WORDS, llama, save, word_tokenizer

SMALL = {"learning_rate": 1e-2, "batch_size": 4}
KEPT = [{"prompt": f"w{n} w1", "completion": f"w{n + 1} w2 w3", "reward": 1.0} for n in range(8)]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A policy, two iterations of RAFT, and texts."""
    place = tmp_path_factory.mktemp("world")
    save(llama(), place / "policy")
    for number, half in ((1, KEPT[:4]), (2, KEPT[4:])):
        write_records(place / f"raft/0/iteration-{number}/kept.jsonl", half)
    write_records(place / "sets/pretrain.jsonl", [{"text": " ".join(WORDS[n : n + 6])} for n in range(30)])
    return place


def run(world: Path, place: Path, raft: str = "raft", **changed) -> dict[str, float]:
    """Run the stage; return its scores."""
    ins = {"policy": world / "policy", "raft": world / raft, "sets": world / "sets"}
    outs = {"out": place / "out", "scores": place / "scores.json", "curve": place / "curve.csv"}
    main(Params(**{**SMALL, **changed}), Run("mitigated", "identity", Lease(place, "mitigated")), **ins, **outs)
    return json.loads((place / "scores.json").read_text())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weights(folder: Path) -> list[torch.Tensor]:
    return list(load_causal(folder)[0].parameters())


def test_without_a_method_it_is_plain_learning_of_the_last_answers(world, tmp_path):
    scores = run(world, tmp_path, iterations=1)
    model = llama()
    answers = encode(word_tokenizer(), [(row["prompt"], row["completion"]) for row in KEPT[4:]], context=64)
    loss = learn(model, answers, learning_rate=1e-2, epochs=2, batch_size=4, seed=derive(0, ORDER))
    assert scores["loss"] == loss
    assert all(torch.equal(one, other) for one, other in zip(weights(tmp_path / "out"), model.parameters(), strict=True))


METHODS = [("l1", 1e-2), ("l2", 1e-3), ("distillation", 1.0), ("kl", 1.0), ("lora", 2.0), ("moving_average", 0.9)]


@pytest.mark.parametrize(("method", "strength"), METHODS)
def test_every_method_stays_nearer_than_none_or_learns_less_freely(world, tmp_path, method, strength):
    free = run(world, tmp_path, epochs=4)
    held = run(world, tmp_path, epochs=4, mitigation=f"{method}-{strength}", adapter_rate=1.0)
    assert 0 < held["distance"] < free["distance"]
    assert (held["penalty"] > 0) == (method in ("l1", "l2", "distillation", "kl"))
    assert [weight.shape for weight in weights(tmp_path / "out")] == [weight.shape for weight in llama().parameters()]


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_replay_takes_its_share_of_the_tokens(world, tmp_path, strength):
    scores = run(world, tmp_path, mitigation=f"replay-{strength}")
    assert scores["tokens"] == 2 * 8 * 6
    assert scores["replayed_tokens"] == strength * scores["tokens"]


def test_the_same_params_give_the_same_bytes_and_the_curve_has_a_row_a_step(world, tmp_path):
    contents = []
    for _ in range(2):
        run(world, tmp_path, mitigation="lora-2")
        contents.append([(path.name, path.read_bytes()) for path in sorted((tmp_path / "out").iterdir())])
    assert contents[0] == contents[1]
    with (tmp_path / "curve.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, 2, 3, 4]


def test_a_run_of_raft_that_kept_nothing_is_told(world, tmp_path):
    (world / "empty/0/iteration-1").mkdir(parents=True)
    (world / "empty/0/iteration-1/kept.jsonl").write_text("")
    with pytest.raises(UserError, match=r"iteration-1/kept.jsonl: holds no Completion record"):
        run(world, tmp_path, raft="empty", iterations=1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 7}, "raft: holds no run of RAFT with seed 7; add it to raft.seeds"),
        ({"iterations": 3}, "mitigated.iterations: 3, but RAFT did 2; lower it"),
        ({"mitigation": "lora-99"}, "lora: rank 99 exceeds 16"),
    ],
)
def test_what_raft_or_the_model_cannot_give_is_told(world, tmp_path, changed, said):
    with pytest.raises(UserError, match=said):
        run(world, tmp_path, **changed)
    assert not (tmp_path / "out").exists()


def test_no_text_to_replay_is_told(world, tmp_path):
    (tmp_path / "sets").mkdir()
    ins = {"policy": world / "policy", "raft": world / "raft", "sets": tmp_path / "sets"}
    outs = {name: tmp_path / name for name in ("out", "scores", "curve")}
    with pytest.raises(UserError, match="pretrain.jsonl: no such file; replay needs text"):
        main(Params(mitigation="replay-1"), Run("mitigated", "x", Lease(tmp_path, "mitigated")), **ins, **outs)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mitigation": "lora-1.5"}, "the strength of lora is its rank, a whole number from 1, not 1.5"),
        ({"mitigation": "lora"}, "METHOD-STRENGTH as in l2-0.001"),
        ({"mitigation": "moving_average-1"}, "its decay, below 1"),
        ({"mitigation": "l2--1"}, "a number from 0, not -1"),
        ({"mitigation": "dropout-1"}, "there are none, l1, l2"),
        ({"mitigation": "none-1"}, "write none"),
        ({"mitigation": "l2-much"}, "could not convert"),
    ],
)
def test_a_strength_that_does_not_fit_its_method_is_refused(values, said):
    with pytest.raises(UserError, match=said):
        check_section(Params, {"mitigated": values}, "params.yaml")
