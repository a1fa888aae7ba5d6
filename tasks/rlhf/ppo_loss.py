"""What PPO minimises, token by token, and what holds it near the reference policy.

Every loss takes the mask of the actions it learns from and returns a sum over them, so that a batch weighs the same however it is
split; the caller divides by the count. What the mask leaves out has no gradient, not even through an overflow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

KL_ERROR = 0.2
"""Largest relative error that the adaptive controller reacts to (Ziegler et al. 2019, section 2.2)."""


def policy_loss(
    logprobs_BA: torch.Tensor, old_BA: torch.Tensor, advantages_BA: torch.Tensor, mask_BA: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clipped surrogate, summed over the mask, and how many of its actions are clipped (no gradient); both scalars.

    -min(ratio * A, clamp(ratio, 1 - clip, 1 + clip) * A) with ratio = pi / pi_old (Schulman et al. 2017, eq. 7).
    """
    import torch

    ratio_BA = torch.where(mask_BA, logprobs_BA - old_BA, 0.0).exp()
    free_BA = ratio_BA * advantages_BA
    held_BA = ratio_BA.clamp(1 - clip, 1 + clip) * advantages_BA
    loss_BA = -torch.minimum(free_BA, held_BA)
    return torch.where(mask_BA, loss_BA, 0.0).sum(), ((held_BA < free_BA) & mask_BA).sum()


def value_loss(
    values_BA: torch.Tensor, old_BA: torch.Tensor, targets_BA: torch.Tensor, mask_BA: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return half the squared error of the values, summed over the mask; a value gains nothing by moving more than `clip`.

    1/2 max((V - target)^2, (V_old + clamp(V - V_old, -clip, clip) - target)^2), in squared units of the reward.
    """
    import torch

    near_BA = old_BA + (values_BA - old_BA).clamp(-clip, clip)
    loss_BA = 0.5 * torch.maximum((values_BA - targets_BA) ** 2, (near_BA - targets_BA) ** 2)
    return torch.where(mask_BA, loss_BA, 0.0).sum()


def hold_loss(logprobs_BA: torch.Tensor, reference_BA: torch.Tensor, held_BA: torch.Tensor) -> torch.Tensor:
    """Return half the squared distance of log-probabilities from the reference's, summed over the actions in `held_BA`; a scalar.

    1/2 (log pi - log pi_ref)^2: on actions drawn from pi its gradient is that of KL(pi || pi_ref) in expectation, and it is 0
    where the two agree, whatever was drawn (the estimator k2 of Schulman 2020, "Approximating KL divergence").
    """
    import torch

    return torch.where(held_BA, 0.5 * (logprobs_BA - reference_BA) ** 2, 0.0).sum()


@dataclass(frozen=True)
class KLController:
    """The weight of the KL penalty: fixed without a target, else moved toward it after every iteration."""

    weight: float
    """Reward that one nat of log pi - log pi_ref costs."""
    target: float | None = None
    """Wanted KL of an answer, in nats."""
    gain: float = 0.1
    """Share of the error by which the weight is changed."""

    def after(self, kl: float) -> KLController:
        """Return the next iteration's controller, having seen a mean KL of `kl` nats an answer (Ziegler et al. 2019, 2.2)."""
        if self.target is None:
            return self
        error = min(max((kl - self.target) / self.target, -KL_ERROR), KL_ERROR)
        return replace(self, weight=self.weight * (1 + self.gain * error))
