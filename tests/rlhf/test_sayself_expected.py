"""The exact estimator of stage 2 is what the sampled one estimates, and moves the confidence alone."""

from types import SimpleNamespace

import pytest
import torch

from tasks.rlhf.learner import Actions
from tasks.rlhf.ppo_loss import policy_loss
from tasks.rlhf.rollout import Rollout
from tasks.rlhf.sayself_expected import ExpectedLearner, Worth, expected
from tasks.runtime.confidence import reward

LEVELS = list(range(11))
RIGHT = [reward(True, level) for level in LEVELS]


def test_what_is_expected_is_the_sum_over_all_confidences_and_the_rest_earns_the_least():
    logits = torch.randn(3, 13, generator=torch.Generator().manual_seed(0))
    logprobs = logits.log_softmax(-1)
    found = expected(logprobs[:, :11], torch.tensor([RIGHT] * 3))
    pi = logprobs.exp()
    byhand = [sum(float(pi[n, c]) * RIGHT[c] for c in LEVELS) - float(pi[n, 11:].sum()) for n in range(3)]
    assert found.tolist() == pytest.approx(byhand, abs=1e-6)


def test_its_gradient_is_the_mean_of_the_policy_gradient_over_what_is_drawn():
    """Every confidence once, weighed by its probability: no sampling, so both must agree to rounding."""
    logits = torch.randn(11, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(-1)
    rewards = torch.tensor(RIGHT, dtype=torch.float64)
    (exact,) = torch.autograd.grad(-expected(logprobs, rewards), logits, retain_graph=True)
    drawn = logprobs[:, None]
    mask = torch.ones(11, 1, dtype=torch.bool)
    weighed = (rewards * logprobs.detach().exp())[:, None]
    (mean,) = torch.autograd.grad(policy_loss(drawn, drawn.detach(), weighed, mask, 0.2)[0], logits)
    assert torch.allclose(exact, mean)


def test_only_the_place_of_the_confidence_is_learned_from_and_a_silent_answer_as_in_ppo():
    rollouts = [Rollout("q", text, [5], [1, 2, 3], True) for text in ("states", "silent")]
    learner = ExpectedLearner.__new__(ExpectedLearner)
    learner.params, learner.tokens = SimpleNamespace(clip=0.2), LEVELS
    learner.worth = lambda rollout: Worth(1, RIGHT) if rollout.completion == "states" else None
    draw = torch.Generator().manual_seed(2)
    logprobs = torch.randn(2, 3, generator=draw, requires_grad=True)
    told = torch.randn(2, 3, 13, generator=draw).log_softmax(-1)[..., :11].requires_grad_()
    mask = torch.tensor([[False, True, True], [True, True, True]])
    advantages = torch.randn(2, 3, generator=draw)
    loss, _ = learner.policy_loss(Actions(rollouts, logprobs, told, logprobs.detach(), advantages, mask))
    of_actions, of_levels = torch.autograd.grad(loss, (logprobs, told))
    assert of_levels.abs().sum((1, 2)).ne(0).tolist() == [True, False]
    assert of_levels[0].abs().sum(1).ne(0).tolist() == [False, True, False]
    assert not of_actions[0].any()
    assert torch.allclose(of_actions[1], -advantages[1])
