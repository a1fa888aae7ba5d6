"""DPA keeps the best along each direction and every answer beside it; a run that goes on gives the same data."""

import json
import random
from collections import Counter

import pytest

from tasks.data import ratings
from tasks.rlhf.dpa import Answered, Asked, Params, ask, candidates, draw_angle, iterate, kept, mark, weights_hash
from tasks.rlhf.rounds import Task, train
from tasks.runtime.checkpoint import sha256
from tasks.runtime.directions import along, weights
from tasks.runtime.lease import Lease
from tasks.runtime.models import save_model
from tasks.runtime.params import UserError, check_section
from tasks.runtime.stage import Run

SMALL = {"rounds": 2, "prompts": 6, "directions": 2, "samples": 4, "max_new_tokens": 6, "batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Random models of the world's own tokens, and prompts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    place, words = tmp_path_factory.mktemp("world"), ratings.world_tokenizer()
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "initializer_range": 0.3,
    }
    shape |= {"vocab_size": len(words), "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    torch.manual_seed(0)
    save_model(LlamaForCausalLM(LlamaConfig(**shape)), words, place / "policy", {"stage": "toy", "summary": "Random."})
    names = {0: "verbosity", 1: "helpfulness"}
    judge = LlamaForSequenceClassification(LlamaConfig(**shape, id2label=names, label2id={n: k for k, n in names.items()}))
    save_model(judge, words, place / "reward", {"stage": "toy", "summary": "Random."})
    return place


def task(world, place, monkeypatch, **changed) -> Task:
    monkeypatch.chdir(place)
    prompts = [f"apple honey {thing}" for thing in ratings.THINGS[2:14]]
    run = Run("dpa", "identity", Lease(place, "dpa"))
    return Task(Params(**{**SMALL, **changed}), run, world / "policy", world / "reward", prompts)


def rows(work, number, name, seed=0):
    return [json.loads(line) for line in (work.checkpoints(seed).place(number) / "model" / f"{name}.jsonl").open()]


def rated(*pairs):
    return [{"helpfulness": float(h), "verbosity": float(v)} for h, v in pairs]


@pytest.mark.parametrize(("angle", "best"), [(45, 0), (-45, 1), (0, 0)])
def test_the_best_along_the_direction_is_chosen(angle, best):
    found = mark(Asked(0, "p", angle), ["a", "b", "c"], rated((80, 90), (70, 20), (75, 50)), random.Random(0))
    assert found.chosen == best
    assert found.rewards[found.chosen] == max(found.rewards)
    assert found.rewards[found.rejected] == min(found.rewards)


def test_ties_are_drawn_evenly_over_seeds_and_alike_for_one():
    texts, same = list("abcd"), rated(*[(50, 50)] * 4)
    drawn = [mark(Asked(0, "p", 10), texts, same, random.Random(seed)).chosen for seed in range(800)]
    assert all(150 < count < 250 for count in Counter(drawn).values())
    assert len(Counter(drawn)) == 4
    assert drawn[:20] == [mark(Asked(0, "p", 10), texts, same, random.Random(seed)).chosen for seed in range(20)]


def test_blank_answers_are_never_chosen():
    assert mark(Asked(0, "p", 0), ["", " "], rated((90, 0), (80, 0)), random.Random(0)) is None
    assert mark(Asked(0, "p", 0), ["", "a"], rated((90, 0), (10, 0)), random.Random(0)).chosen == 1


def test_the_record_learned_from_ends_with_the_assistant_saying_the_best():
    best = Answered(Asked(3, "apple", -15), ["x", "y"], rated((1, 2), (3, 4)), chosen=1, rejected=0)
    row = kept(best, 2)
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][-1]["content"] == "y"
    assert "helpfulness*97 + verbosity*-26" in row["messages"][0]["content"]
    assert (row["angle"], row["prompt_id"], row["round"]) == (-15, 3, 2)
    assert candidates(best, 2)["scores"] == [[1, 2], [3, 4]]


def test_every_prompt_gets_several_directions_away_from_the_unseen():
    params = Params(prompts=50, directions=3, unseen=[-22.5, 22.5], gap=5.0)
    asked = ask(params, [str(number) for number in range(80)], random.Random(0))
    assert set(Counter(each.prompt_id for each in asked).values()) == {3}
    assert all(-45 <= each.angle <= 45 and abs(abs(each.angle) - 22.5) > 5 for each in asked)
    assert len({each.angle for each in asked}) == 150
    assert {each.angle for each in ask(Params(spread=0.0), ["p"], random.Random(0))} == {0.0}


def test_gaps_that_leave_no_angle_are_refused():
    with pytest.raises(UserError, match="leave no angle"):
        draw_angle(Params(angle=22.0, spread=2.0, gap=5.0), random.Random(0))


def test_all_answers_are_stored_with_scores_by_name_and_hashes(world, tmp_path, monkeypatch):
    work = task(world, tmp_path, monkeypatch)
    train(work, iterate, 0)
    stored, learned = rows(work, 2, "candidates"), rows(work, 2, "kept")
    assert len(stored) == len(learned) == 12
    for row, one in zip(stored, learned, strict=True):
        assert len(row["responses"]) == len(row["scores"]) == 4
        rewards = [along(row["angle"], dict(zip(row["attributes"], values, strict=True))) for values in row["scores"]]
        told = [reward for reward, text in zip(rewards, row["responses"], strict=True) if text.strip()]
        assert rewards[row["chosen"]] == max(told), "the best of all that say something"
        assert one["messages"][2]["content"] == row["responses"][row["chosen"]]
        assert f"*{weights(row['angle'])[1]}" in one["messages"][0]["content"]
        assert row["policy_hash"] == weights_hash(work.checkpoints(0).place(1) / "model") != weights_hash(world / "policy")
        assert row["rm_hash"] == weights_hash(world / "reward")
    assert {row["policy_hash"] for row in rows(work, 1, "candidates")} == {weights_hash(world / "policy")}


@pytest.mark.parametrize("learner", ["best", "pairs"])
def test_going_on_after_a_round_gives_the_same_next_one(world, tmp_path, monkeypatch, learner):
    hashes = []
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        work = task(world, tmp_path / name, monkeypatch, learner=learner)
        if name == "stopped":
            train(task(world, tmp_path / name, monkeypatch, learner=learner, rounds=1), iterate, 0)
            assert work.checkpoints(0).steps() == [1]
        train(work, iterate, 0)
        place = work.checkpoints(0).place(2) / "model"
        hashes.append([sha256(place / file) for file in ("candidates.jsonl", "kept.jsonl", "model.safetensors")])
    assert hashes[0] == hashes[1]


def test_seeds_differ(world, tmp_path, monkeypatch):
    work = task(world, tmp_path, monkeypatch, rounds=1)
    for seed in (0, 1):
        train(work, iterate, seed)
    assert rows(work, 1, "candidates", 0) != rows(work, 1, "candidates", 1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"seeds": [1, 1]}, "every seed may stand only once"),
        ({"spread": -1.0}, "greater than or equal to 0"),
        ({"samples": 1}, "greater than or equal to 2"),
        ({"learner": "ppo"}, "'best' or 'pairs'"),
    ],
)
def test_params_that_make_no_sense_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        check_section(Params, {"dpa": values}, "params.yaml")
