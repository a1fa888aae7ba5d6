"""Penalties are zero at the start model, and elsewhere what a second, plainer computation says they are."""

import pytest
import torch

from tasks.rlhf.answers import encode, learn
from tasks.rlhf.penalised import Penalised, as_packed
from tasks.rlhf.penalty import L1_UNIT, L2_UNIT, PENALTIES, WEIGHTS
from tasks.runtime.packing import IGNORED, collate, learned_logits, pack
from tests.tiny import llama, word_tokenizer

ANSWERS = [("w1 w2", "w3 w4 w5"), ("w6", "w7"), ("w8 w9 w10", "w11 w12")]
NAMES = sorted(PENALTIES)


def examples():
    return encode(word_tokenizer(), ANSWERS, context=64)


def batch():
    return collate(pack(examples(), 16), pad_id=0)


@pytest.mark.parametrize("name", NAMES)
def test_at_the_start_it_is_zero_and_pulls_nowhere(name):
    model = llama()
    value = PENALTIES[name](llama(), 3.0)(model, batch())
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert all(weight.grad is None or weight.grad.abs().max() < 1e-5 for weight in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_elsewhere_it_is_positive_and_grows_with_the_strength(name):
    once, twice = (PENALTIES[name](llama(0), strength)(llama(1), batch()).item() for strength in (1.0, 2.0))
    assert twice == pytest.approx(2 * once)
    assert once > 0


@pytest.mark.parametrize(("name", "unit", "power"), [("l1", L1_UNIT, 1), ("l2", L2_UNIT, 2)])
def test_distances_are_means_over_every_parameter(name, unit, power):
    one, other = llama(0), llama(1)
    flat = [torch.nn.utils.parameters_to_vector(model.parameters()).detach().double() for model in (one, other)]
    expected = 0.5 * unit * (flat[1] - flat[0]).abs().pow(power).mean().item()
    assert PENALTIES[name](one, 0.5)(other, {}).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_l2_points_back_to_the_start():
    start, model = llama(0), llama(1)
    PENALTIES["l2"](start, 0.3)(model, {}).backward()
    count = sum(weight.numel() for weight in start.parameters())
    for weight, origin in zip(model.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, 2 * 0.3 * L2_UNIT / count * (weight - origin).detach(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("name", "teacher_first"), [("distillation", True), ("kl", False)])
def test_divergences_are_those_of_the_answers_one_by_one(name, teacher_first):
    """One text, one pass, token by token; the prompt does not count."""
    start, model = llama(0), llama(1)
    sums = []
    for ids, labels in examples():
        with torch.no_grad():
            first, second = (torch.softmax(one(torch.tensor([ids])).logits[0].double(), -1) for one in (start, model))
        p, q = (first, second) if teacher_first else (second, first)
        at = [place - 1 for place, label in enumerate(labels) if label != IGNORED]
        sums += [(p[place] * (p[place] / q[place]).log()).sum().item() for place in at]
    assert PENALTIES[name](start, 1.0)(model, batch()).item() == pytest.approx(sum(sums) / len(sums), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_logits_that_the_loss_was_taken_from_are_not_computed_again(name):
    """The same value and gradient, in one pass of the policy less."""
    start, model = llama(0), llama(1)
    penalty = PENALTIES[name](start, 0.7)
    passes = []
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    once, shared = penalty(model, batch()), penalty(model, batch(), learned_logits(model, batch()))
    hook.remove()
    assert len(passes) == (1 if name in WEIGHTS else 2)
    assert shared.item() == once.item()
    found = [torch.autograd.grad(value, list(model.parameters()), allow_unused=True) for value in (once, shared)]
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_no_penalty_and_one_of_strength_zero_learn_the_same_bits():
    plain, held = llama(), llama()
    settings = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 2, "seed": 0}
    assert learn(plain, examples(), **settings) == learn(held, examples(), **settings, penalty=PENALTIES["l2"](llama(), 0.0))
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), held.parameters(), strict=True))


def test_a_stronger_penalty_leaves_the_policy_nearer():
    moved = []
    for strength in (0.0, 1e-3, 1e-1):
        model, start = llama(), llama()
        learn(model, examples(), learning_rate=1e-3, epochs=10, batch_size=3, seed=0, penalty=PENALTIES["l2"](start, strength))
        moved.append(sum((a - b).square().sum().item() for a, b in zip(model.parameters(), start.parameters(), strict=True)))
    assert moved[0] > 2 * moved[1] > 4 * moved[2] > 0


def test_a_padded_batch_of_trl_says_what_the_packed_one_says():
    """The same texts padded on the right as DPO has them, and in two parts around the seam as GRPO has them."""
    wanted = PENALTIES["kl"](llama(0), 1.0)(llama(1), batch()).item()
    parts = [(ids[: labels.count(IGNORED)], ids[labels.count(IGNORED) :]) for ids, labels in examples()]
    right = [(head + tail, [1] * len(head + tail), [0] * len(head) + [1] * len(tail)) for head, tail in parts]
    names = ("input_ids", "attention_mask", "completion_mask")
    padded = {name: torch.tensor([(row[n] + [0] * 9)[:9] for row in right]) for n, name in enumerate(names)}
    split = {
        "prompt_ids": torch.tensor([[0] * (5 - len(head)) + list(head) for head, _ in parts]),
        "prompt_mask": torch.tensor([[0] * (5 - len(head)) + [1] * len(head) for head, _ in parts]),
        "completion_ids": torch.tensor([(list(tail) + [0] * 6)[:6] for _, tail in parts]),
        "completion_mask": torch.tensor([([1] * len(tail) + [0] * 6)[:6] for _, tail in parts]),
    }
    for inputs in (padded, split):
        assert PENALTIES["kl"](llama(0), 1.0)(llama(1), as_packed(inputs)).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("scaled", "share"), [(True, 4), (False, 1)])
def test_a_penalty_weighs_the_same_in_however_many_passes(scaled, share):
    """A trainer whose loss is scaled already gets the share of a pass; where the Trainer scales, it gets all."""

    class Trainer:
        loss_is_scaled_for_ga, current_gradient_accumulation_steps = scaled, 4

        def compute_loss(self, *_):
            return torch.tensor(1.0)

    class Held(Penalised, Trainer):
        penalty = staticmethod(lambda model, batch: torch.tensor(8.0))

    row = {name: torch.ones(1, 3, dtype=torch.long) for name in ("input_ids", "attention_mask", "completion_mask")}
    assert Held().compute_loss(None, row).item() == 1 + 8 / share
