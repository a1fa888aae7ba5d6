"""Advantages against the definition, written out token by token for one answer at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rlhf.advantage import explained_variance, gae, token_rewards, whiten


def answers(seed: int, count: int = 5, longest: int = 7):
    """Random per-token numbers [N, A] in float64 and which of them are actions; what is no action holds junk."""
    draw = np.random.default_rng(seed)
    lengths = [longest, *draw.integers(1, longest + 1, count - 1)]
    real = torch.tensor([[step < length for step in range(longest)] for length in lengths])
    tables = [torch.from_numpy(draw.normal(size=(count, longest))) for _ in range(3)]
    return real, *(torch.where(real, table, 1e9) for table in tables)


def discounted_sum(rewards: list[float], values: list[float], discount: float, trace: float) -> list[float]:
    """A_t = sum_k (discount * trace)^k delta_{t+k}, the value after the last action being zero."""
    after = [*values[1:], 0.0]
    delta = [reward + discount * later - value for reward, value, later in zip(rewards, values, after, strict=True)]
    return [sum((discount * trace) ** k * delta[t + k] for k in range(len(delta) - t)) for t in range(len(delta))]


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 0.9]), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_gae_is_the_discounted_sum_of_what_was_not_foreseen(seed, discount, trace):
    real, rewards, values, _ = answers(seed)
    rewards = torch.where(real, rewards, 0.0)
    advantages, targets = gae(rewards, values, real, discount, trace)
    for row, length in enumerate(real.sum(1).tolist()):
        expected = discounted_sum(rewards[row, :length].tolist(), values[row, :length].tolist(), discount, trace)
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-9)
        assert (targets - advantages)[row, :length].tolist() == pytest.approx(values[row, :length].tolist())
        assert not advantages[row, length:].any()
        assert not targets[row, length:].any()


def test_the_score_lands_on_the_last_action_and_every_action_pays_for_its_gap():
    real, gap, _, _ = answers(3)
    scores = torch.arange(5.0, dtype=torch.float64)
    rewards = token_rewards(scores, gap, real, 0.3)
    for row, length in enumerate(real.sum(1).tolist()):
        expected = [-0.3 * value for value in gap[row, :length].tolist()]
        expected[-1] += row
        assert rewards[row].tolist() == pytest.approx([*expected, *[0.0] * (7 - length)])


def test_without_discount_and_with_full_trace_the_target_is_what_the_answer_still_earns():
    real, gap, values, _ = answers(4)
    rewards = token_rewards(torch.ones(5, dtype=torch.float64), gap, real, 0.1)
    _, targets = gae(rewards, values, real, 1.0, 1.0)
    assert torch.allclose(targets, torch.where(real, rewards.flip(1).cumsum(1).flip(1), 0.0))


def test_at_the_closed_form_optimum_no_action_is_better_than_another():
    """pi* is proportional to pi_ref exp(r / beta): reward less penalty is then beta log Z, whatever is done."""
    beta, draw = 0.7, torch.Generator().manual_seed(0)
    score, reference = torch.randn(9, generator=draw), torch.randn(9, generator=draw).log_softmax(0)
    best = (reference + score / beta).log_softmax(0)
    earned = token_rewards(score, (best - reference)[:, None], torch.ones(9, 1, dtype=torch.bool), beta)
    assert torch.allclose(earned, beta * torch.logsumexp(reference + score / beta, 0).expand(9, 1), atol=1e-5)


def test_whitening_reads_and_writes_the_mask_alone():
    real, values, _, _ = answers(5)
    white = whiten(values, real)
    assert white[real].mean() == pytest.approx(0, abs=1e-9)
    assert white[real].std(correction=0) == pytest.approx(1, abs=1e-5)
    assert not white[~real].any()
    assert not whiten(torch.full((2, 3), 0.1), torch.ones(2, 3, dtype=torch.bool)).abs().gt(0.1).any(), "no noise blown up"


def test_explained_variance_of_a_perfect_a_constant_and_a_wrong_critic():
    real, targets, _, _ = answers(6)
    assert explained_variance(targets, targets, real) == 1
    assert explained_variance(torch.zeros_like(targets), targets, real) == pytest.approx(0)
    assert explained_variance(-targets, targets, real) == pytest.approx(-3)
    assert explained_variance(targets, torch.ones_like(targets), real) == 0, "nothing to foresee"
