"""Stage 2: the gradient is that of the expected reward, acts on the confidence alone, and leads to the chance of being right."""

import csv
import json

import pytest
import torch

from tasks.rlhf import ppo_loop, sayself_rl
from tasks.rlhf.ppo_loss import policy_loss
from tasks.rlhf.rollout import Rollout, masks
from tasks.rlhf.sayself_rl import Params, confidence_mask, confidence_reward, first_after
from tasks.runtime.confidence import Question, add_words, name_clusters, parse_confidence, reward, unknown_words, write_response
from tasks.runtime.lease import Lease
from tasks.runtime.models import encode_completion, encode_prompt, load_causal, save_model
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tests.tiny import llama, word_tokenizer

LEVELS = torch.arange(11)


def expected_reward(logits_V: torch.Tensor, p: float, kind: str) -> torch.Tensor:
    """J = sum_c pi(c) E[R(I, c)]: differentiable as it stands, without a sample."""
    rewards_V = torch.tensor([p * reward(True, c, kind) + (1 - p) * reward(False, c, kind) for c in range(11)])
    return (logits_V.softmax(-1) * rewards_V).sum()


def sampled_loss(logits_V: torch.Tensor, p: float, kind: str, draw: torch.Generator, samples: int) -> torch.Tensor:
    """PPO's loss of so many confidences drawn from the policy, as this stage computes it, one for each."""
    logprobs_V = logits_V.log_softmax(-1)
    chosen_N = torch.multinomial(logprobs_V.detach().exp(), samples, replacement=True, generator=draw)
    right_N = torch.rand(samples, generator=draw) < p
    rewards_N = torch.tensor([reward(bool(right), int(c), kind) for right, c in zip(right_N, chosen_N, strict=True)])
    advantages_N1 = (rewards_N - rewards_N.mean())[:, None]
    logprobs_N1 = logprobs_V[chosen_N][:, None]
    loss, _ = policy_loss(logprobs_N1, logprobs_N1.detach(), advantages_N1, torch.ones(samples, 1, dtype=torch.bool), 0.2)
    return loss / samples


@pytest.mark.parametrize("kind", ["quadratic", "linear"])
def test_the_sampled_gradient_is_the_exact_one(kind):
    """Mean of 200 estimates of 100 samples each, within 3 standard errors in every coordinate."""
    logits_V = torch.randn(11, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (exact_V,) = torch.autograd.grad(-expected_reward(logits_V, 0.3, kind), logits_V)
    draw = torch.Generator().manual_seed(1)
    found = [torch.autograd.grad(sampled_loss(logits_V, 0.3, kind, draw, 100), logits_V)[0] for _ in range(200)]
    found_KV = torch.stack(found) * 100 / 99  # the mean that is taken off contains the sample itself
    error_V = found_KV.std(0) / len(found_KV) ** 0.5
    assert ((found_KV.mean(0) - exact_V).abs() < 3 * error_V).all()


@pytest.mark.parametrize(
    ("kind", "p", "low", "high"),
    [
        ("quadratic", 0.3, 0.25, 0.35),
        ("quadratic", 0.7, 0.65, 0.75),
        ("linear", 0.3, 0.0, 0.05),
        ("linear", 0.7, 0.95, 1.0),
    ],
)
def test_a_table_learns_to_state_the_truth_and_by_the_control_to_be_certain(kind, p, low, high):
    logits_V = torch.zeros(11, requires_grad=True)
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([logits_V], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        sampled_loss(logits_V, p, kind, draw, 256).backward()
        optimizer.step()
    stated = float((logits_V.detach().softmax(-1) * LEVELS).sum() / 10)
    assert low <= stated <= high


@pytest.mark.parametrize(("kind", "p"), [("quadratic", 0.3), ("linear", 0.3)])
def test_the_exact_gradient_leads_there_too(kind, p):
    logits_V = torch.zeros(11, requires_grad=True)
    optimizer = torch.optim.Adam([logits_V], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        (-expected_reward(logits_V, p, kind)).backward()
        optimizer.step()
    assert int(logits_V.argmax()) == (3 if kind == "quadratic" else 0)


@pytest.fixture(scope="module")
def words():
    """A tokenizer that knows the fields."""
    tokenizer = word_tokenizer()
    texts = [write_response("w1", name_clusters("w1", ["w2"]), level) for level in range(11)] + [name_clusters("w1", [])]
    add_words(llama(), tokenizer, unknown_words(tokenizer, [*texts, *(text.lower() for text in texts)]))
    return tokenizer


def rollout(tokenizer, text):
    actions = encode_completion(tokenizer, text.lower())
    return Rollout("w1 ?", tokenizer.decode(actions, skip_special_tokens=True), [5], actions, True)


def test_only_what_follows_the_last_confidence_is_learned_from(words):
    said = rollout(words, "Confidence: 3 w4 " + write_response("w1", "torn between w1 and w2", 10))
    (kept,) = masks([said], confidence_mask(words))
    assert words.convert_ids_to_tokens([id for id, bit in zip(said.actions, kept, strict=True) if bit]) == ["10", "</s>"]


@pytest.mark.parametrize("text", ["Answer: w1", "Answer: w1\nConfidence: w4", "w2 Confidence:"])
def test_of_a_response_that_cannot_be_read_everything_is(words, text):
    said = rollout(words, text)
    assert masks([said], confidence_mask(words)) == [[True] * len(said.actions)]


def test_a_number_in_digits_is_learned_whole():
    """A tokenizer of single characters: what follows the field is ` `, `1`, `0`."""
    text = "Answer: x\nConfidence: 10"
    first = first_after([ord(char) for char in text], lambda ids: "".join(map(chr, ids)))
    assert text[first:] == " 10"
    assert parse_confidence(text) == 10


def test_logits_before_the_confidence_do_not_enter_the_loss_nor_its_gradient(words):
    said = rollout(words, write_response("w1", "torn between w1 and w2", 7))
    mask_BA = torch.tensor(masks([said], confidence_mask(words)))
    size = len(said.actions)
    draw = torch.Generator().manual_seed(0)
    logits_BAV = torch.randn(1, size, len(words), generator=draw, requires_grad=True)
    advantages_BA = torch.randn(1, size, generator=draw)
    old_BA = torch.full((1, size), -3.0)

    def loss(logits_BAV):
        chosen_BA1 = torch.tensor([said.actions])[..., None]
        return policy_loss(logits_BAV.log_softmax(-1).gather(-1, chosen_BA1)[..., 0], old_BA, advantages_BA, mask_BA, 0.9)[0]

    (gradient_BAV,) = torch.autograd.grad(loss(logits_BAV), logits_BAV)
    assert gradient_BAV[0, :-2].eq(0).all()
    assert gradient_BAV[0, -2:].ne(0).any()
    moved_BAV = logits_BAV.detach().clone()
    moved_BAV[0, :-2] = torch.randn(size - 2, len(words), generator=draw)
    assert loss(moved_BAV) == loss(logits_BAV)


QUESTION = Question(qid="q", prompt="w1 ?", answers=["w1", "w1", "w1", "w2"], source="s", group="g")


@pytest.mark.parametrize(
    ("text", "kind", "earned"),
    [
        ("Answer: w1 Confidence: 8", "quadratic", 0.75 * (1 - 2 * 0.04) + 0.25 * (1 - 2 * 0.64)),
        ("Answer: w1 Confidence: 8", "linear", 0.5 * 0.8),
        ("Answer: w1 w2 Confidence: 0", "quadratic", 1.0),
        ("so w1 Confidence: 10", "quadratic", -1.0),
        ("w1 Confidence: 10", "quadratic", 0.5),
        ("Answer: w1 Confidence: high", "quadratic", -1.0),
        ("Answer: w3 Confidence: 85", "linear", -1.0),
        ("Answer: w3", "quadratic", -1.0),
    ],
)
def test_a_response_earns_the_mean_over_the_right_answers(text, kind, earned):
    assert confidence_reward({"w1 ?": QUESTION}, kind)([("w1 ?", text)]) == [pytest.approx(earned)]


SMALL = {"iterations": 3, "prompts": 8, "samples": 8, "max_new_tokens": 8, "batch_size": 32, "epochs": 1, "learning_rate": 0.002}


@pytest.fixture(scope="module")
def world(tmp_path_factory, words):
    """A policy that already answers `w1` to all, with a random confidence; half of the questions are answered right."""
    folder = tmp_path_factory.mktemp("world")
    model = llama()
    tokenizer = word_tokenizer()
    add_words(model, tokenizer, ["answer", ":", "confidence", *map(str, range(11))])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    prompts = [f"w{number} w30" for number in range(8)]
    rows = [
        encode_prompt(tokenizer, p) + encode_completion(tokenizer, f"answer: w1 confidence: {c}")
        for p in prompts
        for c in range(11)
    ]
    ids_BT = torch.tensor(rows)
    for _ in range(80):
        optimizer.zero_grad()
        model(input_ids=ids_BT, labels=ids_BT).loss.backward()
        optimizer.step()
    save_model(model, tokenizer, folder / "policy", {"stage": "toy", "summary": "A tiny policy with a confidence."})
    questions = [
        Question(qid=p, prompt=p, answers=["w1" if number < 4 else "w2"], source="s", group=p) for number, p in enumerate(prompts)
    ]
    for name in ("rl", "valid"):
        write_records(folder / f"sets/{name}.jsonl", questions)
    return folder


def run(world, place, monkeypatch, **changed):
    place.mkdir(exist_ok=True)
    monkeypatch.chdir(place)
    outs = {name: place / name for name in ("out", "scores", "curve")}
    with Lease(place / "work", "test") as lease:
        params = Params(**{**SMALL, **changed})
        sayself_rl.main(params, Run("sayself-rl", "identity", lease), policy=world / "policy", sets=world / "sets", **outs)
    return json.loads((place / "scores").read_text())


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_reward_rises_the_answers_stay_and_the_best_iteration_is_the_model(world, tmp_path, monkeypatch):
    scores = run(world, tmp_path / "a", monkeypatch, iterations=6, samples=16)
    with (tmp_path / "a/curve").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in rows] == list(range(7))
    sampled = [float(row["reward"]) for row in rows[:-1]]
    assert sampled[-1] > sampled[0] + 0.2
    assert scores["best"]["valid_reward"] == max(float(row["valid_reward"]) for row in rows) > scores["start"]["valid_reward"]
    assert scores["best"]["valid_accuracy"] == scores["start"]["valid_accuracy"] == 0.5
    _, tokenizer = load_causal(tmp_path / "a/out")
    assert "confidence" in tokenizer.get_vocab()


def test_by_the_exact_gradient_four_answers_to_a_question_are_enough(world, tmp_path, monkeypatch):
    scores = run(world, tmp_path / "a", monkeypatch, estimator="expected", iterations=3, samples=4, learning_rate=0.005)
    assert scores["best"]["valid_reward"] > scores["start"]["valid_reward"] + 0.2
    assert scores["best"]["valid_accuracy"] == 0.5


def test_the_exact_gradient_is_refused_where_a_confidence_is_no_single_token(world, tmp_path, monkeypatch):
    model, tokenizer = llama(), word_tokenizer()
    add_words(model, tokenizer, ["answer", ":", "confidence", *map(str, range(10))])
    save_model(model, tokenizer, tmp_path / "policy", {"stage": "toy", "summary": "A policy that cannot write 10."})
    (tmp_path / "sets").symlink_to(world / "sets")
    with pytest.raises(UserError, match="more than one token; set sayself-rl.estimator: sampled"):
        run(tmp_path, tmp_path / "x", monkeypatch, estimator="expected")


def test_stopped_and_run_again_gives_the_same_bits(world, tmp_path, monkeypatch):
    run(world, tmp_path / "whole", monkeypatch)
    honest = ppo_loop.iterate

    def stop(learner, task, number):
        if number == 3:
            raise KeyboardInterrupt
        return honest(learner, task, number)

    monkeypatch.setattr(ppo_loop, "iterate", stop)
    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path / "cut", monkeypatch)
    monkeypatch.setattr(ppo_loop, "iterate", honest)
    run(world, tmp_path / "cut", monkeypatch)
    assert content(tmp_path / "cut/out") == content(tmp_path / "whole/out")
    assert (tmp_path / "cut/curve").read_bytes() == (tmp_path / "whole/curve").read_bytes()


def test_a_norm_of_0_which_would_stop_all_learning_is_refused():
    with pytest.raises(ValueError, match="max_grad_norm"):
        Params(max_grad_norm=0.0)
    assert not Params().whiten


def test_questions_that_are_no_questions_are_refused(world, tmp_path, monkeypatch):
    write_records(tmp_path / "sets/rl.jsonl", [{"prompt": "w1"}])
    (tmp_path / "policy").symlink_to(world / "policy")
    with pytest.raises(UserError, match="not a Question record"):
        run(tmp_path, tmp_path / "x", monkeypatch)
