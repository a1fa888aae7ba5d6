"""DPO, GRPO and RLOO through TRL: losses of the textbook, answers of our sampler, snapshots that lie on one course."""

import json
import math

import pytest
import torch

from tasks.rlhf.dpo import Params as DPOParams
from tasks.rlhf.dpo import encode
from tasks.rlhf.online import OnlineParams
from tasks.runtime.fit.plan import Plan
from tasks.runtime.generate import generate_ids
from tasks.runtime.launch import Place
from tasks.runtime.lease import Lease
from tasks.runtime.models import derive, encode_completion, encode_prompt, load_causal
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tests.rlhf import rewards
from tests.rlhf.trl_world import curve_of, run, write_world
from tests.tiny import llama, word_tokenizer

STAGES = ["dpo", "grpo", "rloo"]
LENGTH = "tests.rlhf.rewards:length"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with everything the stages read, which is also where they run."""
    monkeypatch.chdir(write_world(tmp_path))
    rewards.CALLS.clear()
    return tmp_path


def logprob(model, prompt, answer):
    """The log-probability of an answer and its end: one text, one pass."""
    head, tail = encode_prompt(word_tokenizer(), prompt), encode_completion(word_tokenizer(), answer)
    with torch.no_grad():
        logs = torch.log_softmax(model(torch.tensor([head + tail])).logits[0], -1)
    return sum(float(logs[len(head) + n - 1, token]) for n, token in enumerate(tail))


def test_the_loss_of_dpo_is_its_closed_form(world):
    """One pair, two steps: the second loss is that of the first snapshot against the start."""
    write_records(world / "preferences/train.jsonl", [{"prompt": "w1", "chosen": "w2 w3", "rejected": "w4"}])
    place = run("dpo", world, world / "out", batch_size=1, epochs=2.0, snapshots=2, beta=0.3, warmup=0.0, learning_rate=1e-3)
    curve = curve_of(place)
    assert curve[0]["loss"] == pytest.approx(math.log(2)), "at the start nothing is preferred"
    moved = load_causal(place / "model/iteration-1")[0].eval()
    ratios = [logprob(moved, "w1", answer) - logprob(llama(), "w1", answer) for answer in ("w2 w3", "w4")]
    assert curve[1]["loss"] == pytest.approx(math.log1p(math.exp(-0.3 * (ratios[0] - ratios[1]))), abs=1e-5)
    assert curve[1]["margin"] == pytest.approx(0.3 * (ratios[0] - ratios[1]), abs=1e-5)


def test_dpo_learns_what_is_preferred_and_a_penalty_holds_it(world):
    free, held = (run("dpo", world, world / str(s), epochs=3.0, penalty="l2", strength=s) for s in (0.0, 1.0))
    scores = [json.loads((place / "scores.json").read_text()) for place in (free, held)]
    assert scores[0]["accuracy"] == 1.0
    assert scores[0]["margin"] > 2 * scores[1]["margin"]


@pytest.mark.parametrize("stage", STAGES)
def test_snapshots_are_the_models_of_one_course(stage, world):
    """Of six steps: three snapshots are the second, fourth and sixth of a run that keeps all."""
    few, every = (run(stage, world, world / f"{count}", snapshots=count) for count in (3, 6))
    assert [row["step"] for row in curve_of(every)] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in (few / "model").iterdir()) == ["iteration-1", "iteration-2", "iteration-3"]
    for number in (1, 2, 3):
        one, other = (load_causal(place / "model" / f"iteration-{n}")[0] for place, n in ((few, number), (every, 2 * number)))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert (few / "curve.csv").read_bytes() == (every / "curve.csv").read_bytes()
    assert not list(world.glob(".temper/checkpoints/*/*")), "snapshots go once they are published"


def first_step(world):
    """Start model, prompts, answers and rewards of the first step of a run, all by hand."""
    prompts = [json.loads(line)["prompt"] for line in (world / "sets/prompts.jsonl").open()]
    params = OnlineParams(batch_size=4)
    order = Plan(Run("toy", "x", Lease(world, "toy")), params, Place(), [1] * len(prompts)).order[:4]
    rows = [prompts[row] for row in order for _ in range(4)]
    model, tokenizer = llama(), word_tokenizer()
    encoded = [encode_prompt(tokenizer, prompt) for prompt in rows]
    drawn = generate_ids(model, tokenizer, encoded, max_new_tokens=6, temperature=1.0, seed=derive(0, 0), batch_size=16)
    texts = [tokenizer.decode(one.ids, skip_special_tokens=True) for (one,) in drawn]
    worth = torch.tensor([rewards.length(*answer) for answer in zip(rows, texts, strict=True)])
    return model, encoded, [one.actions for (one,) in drawn], worth.view(4, 4), list(zip(rows, texts, strict=True))


@pytest.mark.parametrize("stage", ["grpo", "rloo"])
def test_the_first_step_follows_the_policy_gradient(stage, world):
    """Adam's first step goes against the sign of the gradient, which is computed here answer by answer."""
    model, encoded, actions, worth, answers = first_step(world)
    if stage == "grpo":
        advantage = (worth - worth.mean(1, keepdim=True)) / (worth.std(1, keepdim=True) + 1e-4)
    else:
        advantage = worth - (worth.sum(1, keepdim=True) - worth) / 3
    for head, tail, value in zip(encoded, actions, advantage.flatten(), strict=True):
        logs = torch.log_softmax(model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1], -1)
        (-value * logs[range(len(tail)), tail].sum()).backward()
    rewards.CALLS.clear()
    changed = {"beta": 0.0, "warmup": 0.0, "learning_rate": 1e-4, "snapshots": 6, "reward": LENGTH}
    place = run(stage, world, world / "out", **changed)
    assert rewards.CALLS[:16] == answers, "the answers are those of our sampler"
    assert curve_of(place)[0]["reward"] == pytest.approx(worth.mean().item(), abs=1e-5)
    right = count = 0
    stepped = load_causal(place / "model/iteration-1")[0]
    for weight, start in zip(stepped.parameters(), model.parameters(), strict=True):
        clear = start.grad.abs() > 1e-2 * start.grad.abs().max()
        right += int(((weight - start).sign() == -start.grad.sign())[clear].sum())
        count += int(clear.sum())
    assert right == count > 1000


@pytest.mark.parametrize("stage", ["grpo", "rloo"])
def test_reward_rises(stage, world):
    course = [row["reward"] for row in curve_of(run(stage, world, world / "out", epochs=4.0, beta=0.01))]
    assert sum(course[-4:]) / 4 > sum(course[:4]) / 4 + 0.3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("constant", "step 1: all 16 answers have the same reward 1"),
        ("nothing", "gives nan, not a finite number; it was given the prompt"),
        ("broken", "fails with RuntimeError: out of order; it was given the prompt"),
    ],
)
def test_a_reward_that_teaches_nothing_ends_the_run_with_its_reason(name, said, world):
    with pytest.raises(UserError, match=said):
        run("grpo", world, world / "out", reward=f"tests.rlhf.rewards:{name}")
    assert not (world / "out/model").exists()


def test_prompts_that_leave_no_room_are_told(world):
    with pytest.raises(UserError, match="grpo.max_length: 8, but the longest prompt and grpo.max_new_tokens: 7 make 9 tokens"):
        run("grpo", world, world / "out", max_length=8, max_new_tokens=7)


def test_more_snapshots_than_steps_are_told(world):
    with pytest.raises(UserError, match="dpo.snapshots: 9 in 6 steps; lower it, or raise dpo.epochs"):
        run("dpo", world, world / "out", snapshots=9)


def test_pairs_with_equal_sides_are_left_out_and_long_answers_cut(tmp_path):
    long = " ".join(["w3"] * 7)
    sides = [("w1 w2", "w1 w2"), (f"{long} w4", f"{long} w5"), (long, "w6"), ("w7", "w8")]
    write_records(tmp_path / "t.jsonl", [{"prompt": "w0", "chosen": one, "rejected": other} for one, other in sides])
    found = encode(word_tokenizer(), tmp_path / "t.jsonl", DPOParams(max_length=8))
    assert [len(row["chosen_ids"]) for row in found.rows] == [7, 2]
    assert (found.cut, found.skipped) == (3, 2)
    write_records(tmp_path / "t.jsonl", [{"prompt": "w0", "chosen": "w1", "rejected": "w1"}])
    with pytest.raises(UserError, match="no pair differs within dpo.max_length: 8 tokens"):
        encode(word_tokenizer(), tmp_path / "t.jsonl", DPOParams(max_length=8))
