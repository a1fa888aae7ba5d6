"""PPO as a whole: the ids it learns from, its optimum, its mask, its adapters, its faults, and a killed run's bits."""

import csv
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tasks.rlhf import ppo
from tasks.rlhf.learner import Learner
from tasks.rlhf.ppo import Params
from tasks.rlhf.ppo_loop import Task, iterate, learn_from, optimise, order, plays, publish_course
from tasks.rlhf.reward import from_function
from tasks.rlhf.rollout import Rollout, scored
from tasks.runtime.imports import ROOT
from tasks.runtime.launch import Place
from tasks.runtime.lease import Lease
from tasks.runtime.models import load_causal, save_model
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tests.tiny import WORDS, config, judge, llama, save, word_tokenizer

SMALL = {"prompts": 8, "samples": 2, "max_new_tokens": 6, "batch_size": 8, "micro_batch": 8, "generate_batch": 16}
SMALL |= {"iterations": 3, "learning_rate": 3e-3, "critic_learning_rate": 1e-2}
PROMPTS = [f"{word} {other}" for word in WORDS[:5] for other in WORDS[:4]]
FLAGS = ["policy", "reward", "sets", "out", "scores", "curve"]


def low(prompt: str, completion: str) -> float:
    """The share of words with a low number: a reward that a tiny model soon learns."""
    words = completion.split()
    return sum(int(word[1:]) < 20 for word in words) / max(1, len(words))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A policy, a reward model and prompts."""
    folder = tmp_path_factory.mktemp("world")
    save(llama(), folder / "policy")
    save(judge(1), folder / "reward")
    write_records(folder / "sets/prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    return folder


@pytest.fixture
def begin(world, tmp_path, monkeypatch):
    """Return a learner and its task, with checkpoints below a folder of the test's own."""
    monkeypatch.chdir(tmp_path)

    def start(reward=low, mask=None, place=None, policy=None, **changed) -> tuple[Learner, Task]:
        torch.seed()  # what this process drew before must not matter
        params = Params(**{**SMALL, **changed})
        run = Run("ppo", "identity", Lease(tmp_path, "ppo"))
        where = place or Place()
        task = Task(params, run, where, PROMPTS, from_function(reward, "test"), mask)
        return Learner(params, where, policy or world / "policy"), task

    return start


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def weights(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def one_by_one(model, rollout: Rollout, temperature: float) -> list[float]:
    """Log-probabilities of an answer's actions, the answer alone in its batch."""
    with torch.no_grad():
        logits = model(torch.tensor([rollout.prompt_ids + rollout.actions])).logits[0]
    lines = torch.log_softmax(logits / temperature, -1)
    first = len(rollout.prompt_ids) - 1
    return [float(lines[first + step, action]) for step, action in enumerate(rollout.actions)]


def test_log_probabilities_are_those_of_the_ids_drawn_and_of_the_distribution_they_were_drawn_from(begin, world):
    learner, task = begin(temperature=0.7)
    learner.actor.generation_config.eos_token_id = stops = list(range(3, 8))
    reference, _ = load_causal(world / "policy")
    with torch.no_grad():
        learner.actor.get_input_embeddings().weight.add_(0.05)
    played = plays(learner, task, 1)
    assert {one.rollout.stopped for one in played} == {True, False}
    for one in played:
        assert one.logprobs == pytest.approx(one_by_one(learner.actor, one.rollout, 0.7), abs=1e-4)
        assert one.reference == pytest.approx(one_by_one(reference, one.rollout, 0.7), abs=1e-4)
        assert [action in stops for action in one.rollout.actions] == [False] * (len(one.values) - 1) + [one.rollout.stopped]
        assert one.values == [0.0] * len(one.rollout.actions), "the critic's head starts at zero"
    assert {one.number for one in played} == set(range(8))


def test_it_finds_the_optimum_of_a_bandit_with_a_price_on_kl(tmp_path, begin):
    """One action, reward by the word said: the best policy is pi_ref exp(r / kl_weight), normalised."""
    words = WORDS[:6]
    tokenizer = word_tokenizer(words)
    model = LlamaForCausalLM(config(3, words=words)).eval()
    save_model(model, tokenizer, tmp_path / "policy", {"stage": "toy", "summary": "A bandit."})
    worth = {"": 0.0, **{word: 0.4 * number for number, word in enumerate(words)}}
    learner, task = begin(
        lambda prompt, completion: worth[completion],
        policy=tmp_path / "policy",
        samples=256,
        max_new_tokens=1,
        batch_size=256,
        micro_batch=256,
        generate_batch=256,
        kl_weight=0.8,
        whiten=False,
    )
    task = replace(task, prompts=["w0"])
    prompt = torch.tensor([tokenizer("w0")["input_ids"]])
    with torch.no_grad():
        reference = model(prompt).logits[0, -1].log_softmax(-1)
    rewards = torch.tensor([worth[tokenizer.decode([token], skip_special_tokens=True)] for token in range(len(reference))])
    best = (reference + rewards / 0.8).softmax(-1)
    course = []
    for number in range(1, 41):
        iterate(learner, task, number)
        with torch.no_grad():
            course.append(learner.actor(prompt).logits[0, -1].softmax(-1))
    found = torch.stack(course[20:]).mean(0)  # steps of a constant rate wander about what they have found
    assert (best - reference.exp()).abs().sum() / 2 > 0.3, "there is something to learn"
    assert (best - found).abs().sum() / 2 < 0.03


def test_reward_rises_and_the_model_of_every_iteration_is_kept(begin, tmp_path):
    learner, task = begin(iterations=4, prompts=20, samples=2, epochs=4, micro_batch=8)
    course = optimise(learner, task)
    assert [row["iteration"] for row in course] == [1, 2, 3, 4]
    assert course[-1]["reward"] > course[0]["reward"] + 0.1
    assert course[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert course[-1]["kl"] > 0
    publish_course(task, course, tmp_path / "out", tmp_path / "scores.json", tmp_path / "curve.csv", extra=1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"iteration-{number}" for number in range(1, 5)]
    last, _ = load_causal(tmp_path / "out/iteration-4")
    assert all(torch.equal(weight, weights(learner.actor)[name]) for name, weight in weights(last).items())
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["first_reward"], scores["last_reward"], scores["extra"]) == (course[0]["reward"], course[-1]["reward"], 1)
    with (tmp_path / "curve.csv").open() as file:
        assert [float(row["reward"]) for row in csv.DictReader(file)] == [row["reward"] for row in course]
    assert not task.run.checkpoints.folder.exists()


def test_a_step_is_the_same_however_it_is_split_into_passes(begin):
    found = []
    for micro in (1, 8):
        learner, task = begin(micro_batch=micro, max_grad_norm=1e9, epochs=1)
        iterate(learner, task, 1)
        found.append(weights(learner.actor))
    for name, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][name], atol=2e-4, rtol=0, msg=name)


def test_the_first_step_is_taken_at_ratio_one_whatever_dropout_the_policy_was_trained_with(begin, tmp_path):
    model = llama()
    model.config.attention_dropout = 0.5
    learner, task = begin(policy=save(model, tmp_path / "policy"))
    lesson, _ = learn_from(learner, task, plays(learner, task, 1))
    told = learner.update(lesson, range(8))
    assert told["approx_kl"] == pytest.approx(0, abs=1e-5)
    assert told["clip_fraction"] == 0


def test_the_policy_moves_by_the_masked_actions_alone_and_the_critic_by_all(begin):
    """Other advantages outside the mask change nothing for the actor; other targets there change the critic."""
    found = []
    for junk in (0.0, 5.0):
        learner, task = begin(mask=lambda rollout: [False] * (len(rollout.actions) - 1) + [True], epochs=1, max_grad_norm=1e9)
        lesson, _ = learn_from(learner, task, plays(learner, task, 1))
        outside = lesson.real & ~lesson.mask
        lesson = replace(
            lesson,
            advantages=lesson.advantages + junk * outside,
            logprobs=lesson.logprobs + junk * outside,
            targets=lesson.targets + junk * outside,
        )
        learner.update(lesson, range(16))
        found.append((weights(learner.actor), weights(learner.both.critic)))
    (actor, critic), (same_actor, other_critic) = found
    assert all(torch.equal(actor[name], same_actor[name]) for name in actor)
    assert any(not torch.equal(critic[name], other_critic[name]) for name in critic)


def test_adapters_learn_the_base_stays_the_reference_and_the_published_model_is_plain(begin, world, tmp_path):
    learner, task = begin(lora_rank=4, iterations=2)
    before, _ = load_causal(world / "policy")
    optimise(learner, task)
    played = plays(learner, task, 3)
    assert any(one.logprobs != one.reference for one in played)
    for one in played:
        assert one.reference == pytest.approx(one_by_one(before, one.rollout, 1.0), abs=1e-4)
    published, _ = load_causal(task.models.place(2) / "model")
    assert weights(published).keys() == weights(before).keys()
    for one in played:
        assert one.logprobs == pytest.approx(one_by_one(published, one.rollout, 1.0), abs=1e-4)


class Killed(BaseException):
    """Ends a run at some point."""


@pytest.mark.parametrize("changed", [{"kl_target": 1.0}, {"lora_rank": 2}], ids=["full", "lora"])
def test_a_run_killed_anywhere_goes_on_with_the_bits_of_one_that_was_not(begin, monkeypatch, changed):
    """It dies while playing, learning, writing a model and writing a state: each time it has got one iteration further."""
    learner, task = begin(iterations=5, **changed)
    whole = optimise(learner, task), content(task.models.folder)
    task.run.checkpoints.clear()
    for done, act in enumerate(("foresee", "update", "publish", "save")):
        learner, task = begin(iterations=5, **changed)
        assert task.done() == done
        monkeypatch.setattr(learner, act, dies_the_second_time(vars(Learner)[act], learner))
        with pytest.raises(Killed):
            optimise(learner, task)
    learner, task = begin(iterations=5, **changed)
    assert optimise(learner, task) == whole[0]
    assert content(task.models.folder) == whole[1]


def dies_the_second_time(act, learner):
    calls = itertools.count()

    def dying(*arguments):
        if next(calls):
            raise Killed
        return act(learner, *arguments)

    return dying


def test_a_damaged_checkpoint_costs_its_iterations_and_no_bits(begin):
    learner, task = begin()
    optimise(learner, task)
    whole = content(task.models.folder)
    (task.models.place(2) / "model/model.safetensors").write_bytes(b"half")
    assert task.done() == 0, "the state after iteration 1 is gone, so it begins anew"
    optimise(*begin())
    assert content(task.models.folder) == whole


def test_an_answer_that_was_cut_pays_a_penalty():
    ended, cut = (Rollout("p", "c", [1], [2], stopped) for stopped in (True, False))
    assert scored([ended, cut], lambda answers: [1.0, 1.0], 0.5) == [1.0, 0.5]


def test_every_answer_is_learned_from_once_an_epoch_in_whole_batches():
    params = Params(epochs=3, batch_size=4)
    found = order(8, params, random.Random(0))
    assert [sorted(found[start : start + 8]) for start in (0, 8, 16)] == [list(range(8))] * 3
    assert len(order(10, params, random.Random(0))) == 32
    assert len(order(1, params, random.Random(0))) == 4


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda prompt, completion: math.nan, "reward test gives nan"),
        (lambda prompt, completion: 1.0, "iteration 1: all 16 answers have the same reward 1"),
        (lambda prompt, completion: 1 / 0, "reward test fails with ZeroDivisionError"),
    ],
    ids=["nan", "constant", "throws"],
)
def test_a_broken_reward_ends_it_with_its_reason(begin, reward, said):
    learner, task = begin(reward)
    with pytest.raises(UserError, match=said):
        optimise(learner, task)
    assert task.models.steps() == []


def test_a_reward_of_a_stages_own_that_gives_nan_is_refused_too(begin):
    learner, task = begin()
    with pytest.raises(UserError, match=r"the reward is nan for the prompt 'w\d w\d'"):
        optimise(learner, replace(task, reward=lambda answers: [math.nan] * len(answers)))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (lambda rollout: [False] * len(rollout.actions), r"keeps none of \d+ actions"),
        (lambda rollout: [True], r"1 entries for \d actions"),
    ],
)
def test_a_mask_that_leaves_nothing_or_does_not_fit_is_refused(begin, mask, said):
    with pytest.raises(UserError, match=said):
        optimise(*begin(mask=mask))


def test_a_policy_that_runs_away_is_stopped_with_a_remedy(begin):
    with pytest.raises(UserError, match=r"iteration 2: .* nats an answer .*ppo.kl_limit: 0.5; lower ppo.learning_rate"):
        optimise(*begin(kl_limit=0.5, learning_rate=0.1))


def test_a_loss_that_is_no_number_is_stopped_with_a_remedy(begin):
    learner, task = begin()
    lesson, _ = learn_from(learner, task, plays(learner, task, 1))
    with pytest.raises(UserError, match=r"no longer finite .*lower ppo.learning_rate"):
        learner.update(replace(lesson, advantages=lesson.advantages * math.inf), range(16))


def test_zero_3_and_a_batch_that_cannot_be_shared_are_refused(begin):
    with pytest.raises(UserError, match="ZeRO-3 cuts in pieces; set TEMPER_ZERO=2"):
        begin(place=Place(processes=2, zero=3))
    with pytest.raises(UserError, match="batch_size: 7 rows cannot be shared evenly by 2 processes"):
        begin(place=Place(processes=2, zero=2), batch_size=7)


def command(world: Path, place: Path, **changed) -> list[str]:
    """The stage as DVC starts it, with outs below `place` and its params written there."""
    place.mkdir(exist_ok=True)
    (place / "params.yaml").write_text(json.dumps({"ppo": {**SMALL, **changed}}))
    places = {flag: world / flag for flag in FLAGS[:3]} | {"out": place / "ppo"}
    places |= {"scores": place / "ppo.json", "curve": place / "ppo.csv"}
    flags = [part for flag in FLAGS for part in (f"--{flag}", str(places[flag]))]
    return [sys.executable, "-m", ppo.__name__, "--params", str(place / "params.yaml"), *flags]


def start(world: Path, place: Path, environment: dict[str, str] | None = None, **changed) -> subprocess.Popen[str]:
    there = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.Popen(command(world, place, **changed), cwd=place, env=there, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said[-3000:]


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    place = tmp_path_factory.mktemp("finished")
    finish(start(world, place))
    return place


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_run_again_gives_the_bits_of_an_uninterrupted_run(world, finished, tmp_path, stop):
    process = start(world, tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".temper/checkpoints/ppo/*/*/states/step-*/complete")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(stop)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (75 if stop is signal.SIGTERM else -signal.SIGKILL), said
    assert not (tmp_path / "ppo").exists()
    finish(start(world, tmp_path))
    assert content(tmp_path / "ppo") == content(finished / "ppo")
    assert (tmp_path / "ppo.csv").read_bytes() == (finished / "ppo.csv").read_bytes()
    assert (tmp_path / "ppo.json").read_bytes() == (finished / "ppo.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["1", "2"])
def test_two_processes_under_deepspeed_play_the_same_and_learn_the_same_even_when_stopped(world, finished, tmp_path, zero):
    there = {"TEMPER_PROCESSES": "2", "TEMPER_ZERO": zero}
    process = start(world, tmp_path, there, micro_batch=2)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob(f".temper/checkpoints/ppo/*/zero{zero}x2/states/step-*/complete")):
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said[-3000:]
    finish(start(world, tmp_path, there, micro_batch=2))
    alone, together = curve(finished), curve(tmp_path)
    for one, other in zip(alone, together, strict=True):
        assert other == pytest.approx(one, abs=1e-3)
    expected, found = (weights(load_causal(place / "ppo/iteration-3")[0]) for place in (finished, tmp_path))
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-3, rtol=0, msg=name)


def curve(place: Path) -> list[dict[str, float]]:
    with (place / "ppo.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
