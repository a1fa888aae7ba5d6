"""The optimum of the loss is the target, in a vocabulary larger than k, and the mass outside the k is where it should be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.distill.divergence import from_likeliest, from_teacher
from tasks.distill.trustworthy import renormalised, trustworthy

TEACHER = [0.60, 0.25, 0.10, 0.03, 0.01]
IDS = torch.tensor([[3, 0, 7, 11, 19]])


def optimum(probs, *, rest: bool, vocabulary: int = 20) -> torch.Tensor:
    """The softmax of free logits where the loss is least."""
    logits = torch.zeros(1, vocabulary, requires_grad=True)
    target = torch.tensor(np.asarray(probs), dtype=torch.float32)[None]
    descent = torch.optim.Adam([logits], lr=0.1)
    for _ in range(800):
        descent.zero_grad()
        from_likeliest(logits, IDS, target, rest=rest).backward()
        descent.step()
    return logits.detach().softmax(-1)[0]


@pytest.mark.parametrize("target", [trustworthy([TEACHER], 0.3)[0], renormalised([TEACHER])[0]], ids=["first", "renormalised"])
def test_free_logits_end_at_the_target_with_nothing_outside(target):
    """Neither one-hot (a loss linear in the student) nor the raw teacher (a recalibration that cancels)."""
    found = optimum(target, rest=False)
    assert found[IDS[0]].numpy() == pytest.approx(target, abs=1e-2)
    assert 1 - found[IDS[0]].sum() < 1e-2


def test_the_recalibrated_target_is_not_the_raw_one():
    probs = np.array([[0.6, 0.25, 0.1, 0.03, 0.02]])
    assert optimum(trustworthy(probs, 0.3)[0], rest=False)[IDS[0]].numpy() == pytest.approx(trustworthy(probs, 0.3)[0], abs=1e-2)
    assert np.abs(trustworthy(probs, 0.3)[0] - probs[0]).max() > 0.03


def test_with_a_rest_free_logits_end_at_the_raw_probabilities():
    """Six outcomes: five tokens and none of them, whose mass the student is free to share out."""
    probs = [0.5, 0.2, 0.1, 0.03, 0.02]
    found = optimum(probs, rest=True)
    assert found[IDS[0]].numpy() == pytest.approx(probs, abs=5e-3)
    assert 1 - found[IDS[0]].sum() == pytest.approx(0.15, abs=5e-3)


def by_definition(logits, ids, probs, rest: bool) -> float:
    """Position by position and token by token, in double precision."""
    total = 0.0
    for row, tokens, shares in zip(logits.double(), ids.tolist(), probs.double().tolist(), strict=True):
        student = row.softmax(0).tolist()
        outcomes = [(q, student[token]) for q, token in zip(shares, tokens, strict=True)]
        if rest:
            outcomes.append((max(0.0, 1 - sum(shares)), sum(p for n, p in enumerate(student) if n not in tokens)))
        total += sum(q * np.log(q / p) for q, p in outcomes if q > 0)
    return total


@settings(max_examples=30)
@given(n=st.integers(1, 6), k=st.integers(1, 6), seed=st.integers(0, 99), rest=st.booleans(), zero=st.booleans())
def test_the_loss_is_the_definition(n, k, seed, rest, zero):
    draw = np.random.default_rng(seed)
    logits = torch.tensor(draw.normal(size=(n, 9)) * 3, dtype=torch.float32)
    ids = torch.tensor(np.stack([draw.choice(9, k, replace=False) for _ in range(n)]))
    probs = torch.tensor(draw.dirichlet(np.ones(k + 1), n)[:, :k], dtype=torch.float32)
    if zero:
        probs[:, -1] = 0
    assert from_likeliest(logits, ids, probs, rest=rest).item() == pytest.approx(
        by_definition(logits, ids, probs, rest), abs=1e-4
    )


def test_with_all_of_the_vocabulary_it_is_full_distillation():
    teacher, student = torch.randn(4, 7), torch.randn(4, 7)
    probs, ids = teacher.softmax(-1).sort(descending=True)
    expected = from_teacher(student, teacher).item()
    assert from_likeliest(student, ids, probs, rest=False).item() == pytest.approx(expected, abs=1e-5)
    assert from_likeliest(student, ids, probs, rest=True).item() == pytest.approx(expected, abs=1e-5)
    assert from_teacher(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rest", [False, True])
def test_gradients_are_finite_where_a_probability_is_zero_or_one(rest):
    logits = torch.zeros(1, 20, requires_grad=True)
    from_likeliest(logits, IDS, torch.tensor([[1.0, 0, 0, 0, 0]]), rest=rest).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 3] == pytest.approx(1 / 20 - 1)
