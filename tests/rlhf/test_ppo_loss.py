"""PPO's losses against the equations written out token by token, their gradients, and the KL controller."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rlhf.ppo_loss import KLController, hold_loss, policy_loss, value_loss
from tests.rlhf.test_advantage import answers


def positions(mask):
    return [tuple(place) for place in mask.nonzero().tolist()]


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.2, 0.5]))
def test_the_policy_loss_is_the_clipped_surrogate(seed, clip):
    mask, new, old, advantages = answers(seed)
    expected, clipped = 0.0, 0
    for place in positions(mask):
        ratio = math.exp(float(new[place]) - float(old[place]))
        held, advantage = min(max(ratio, 1 - clip), 1 + clip), float(advantages[place])
        expected -= min(ratio * advantage, held * advantage)
        clipped += ratio != held and held * advantage < ratio * advantage
    loss, count = policy_loss(new, old, advantages, mask, clip)
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    assert int(count) == clipped


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0]))
def test_the_value_loss_is_half_the_larger_squared_error(seed, clip):
    mask, new, old, targets = answers(seed)
    expected = 0.0
    for place in positions(mask):
        value, before, target = float(new[place]), float(old[place]), float(targets[place])
        near = before + min(max(value - before, -clip), clip)
        expected += 0.5 * max((value - target) ** 2, (near - target) ** 2)
    assert float(value_loss(new, old, targets, mask, clip)) == pytest.approx(expected, abs=1e-6)


def test_the_gradient_at_ratio_one_is_the_policy_gradient():
    """d/dtheta of -sum A log pi, here through a table of logits: -A (onehot - pi), action by action."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    actions, advantages = torch.randint(0, 5, (6, 1), generator=draw), torch.randn(6, 1, generator=draw, dtype=torch.float64)
    logprobs = logits.log_softmax(1).gather(1, actions)
    loss, clipped = policy_loss(logprobs, logprobs.detach(), advantages, torch.ones(6, 1, dtype=torch.bool), 0.2)
    loss.backward()
    onehot = torch.nn.functional.one_hot(actions.squeeze(1), 5)
    assert torch.allclose(logits.grad, -advantages * (onehot - logits.detach().softmax(1)))
    assert int(clipped) == 0


def test_the_gradient_of_holding_is_that_of_the_divergence_from_the_reference():
    """Over all actions, weighed by probability: grad 1/2 (log pi - log ref)^2 = grad KL(pi || ref), and 0 where both agree."""
    draw = torch.Generator().manual_seed(0)
    logits, reference = (torch.randn(6, generator=draw, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    logprobs, ref = logits.log_softmax(0), reference.log_softmax(0)
    (exact,) = torch.autograd.grad((logprobs.exp() * (logprobs - ref)).sum(), logits, retain_graph=True)
    one = torch.ones(1, 1, dtype=torch.bool)
    losses = [hold_loss(logprobs[None, None, a], ref[None, None, a], one) for a in range(6)]
    each = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in losses]
    assert torch.allclose((logprobs.detach().exp()[:, None] * torch.stack(each)).sum(0), exact)
    (none,) = torch.autograd.grad(hold_loss(logprobs[None], logprobs.detach()[None], one.expand(1, 6)), logits)
    assert not none.any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"), [(1.3, 1.0, False), (1.3, -1.0, True), (0.7, 1.0, True), (0.7, -1.0, False)]
)
def test_a_ratio_that_has_gone_far_enough_has_no_gradient_and_one_that_went_astray_has(ratio, advantage, moves):
    new = torch.tensor([[math.log(ratio)]], requires_grad=True)
    policy_loss(new, torch.zeros(1, 1), torch.full((1, 1), advantage), torch.ones(1, 1, dtype=torch.bool), 0.2)[0].backward()
    assert bool(new.grad.any()) is moves


def test_what_the_mask_leaves_out_changes_nothing_and_gets_no_gradient_not_even_by_overflow():
    mask, new, old, advantages = answers(7)
    mask &= torch.arange(7) % 2 == 0
    wild = torch.where(mask, new, torch.tensor([1e9, -1e9, 0.0]).repeat(5, 3)[:, :7].double()).requires_grad_()
    for loss, expected in (
        (policy_loss(wild, old, advantages, mask, 0.2)[0], policy_loss(new, old, advantages, mask, 0.2)[0]),
        (value_loss(wild, old, advantages, mask, 0.2), value_loss(new, old, advantages, mask, 0.2)),
        (hold_loss(wild, old, mask), hold_loss(new, old, mask)),
    ):
        (gradient,) = torch.autograd.grad(loss, wild)
        assert loss.item() == pytest.approx(expected.item())
        assert gradient.isfinite().all()
        assert not gradient[~mask].any()
        assert gradient[mask].any()


@pytest.mark.parametrize(("kl", "factor"), [(6.0, 1.0), (6.6, 1.01), (60.0, 1.02), (5.4, 0.99), (0.0, 0.98), (-3.0, 0.98)])
def test_the_adaptive_controller_raises_its_weight_above_the_target_and_lowers_it_below(kl, factor):
    assert KLController(0.2, target=6.0).after(kl).weight == pytest.approx(0.2 * factor)


def test_the_fixed_controller_stays():
    assert KLController(0.2).after(1e6) == KLController(0.2)
