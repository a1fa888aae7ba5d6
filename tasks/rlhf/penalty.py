"""What a policy pays, while it learns, for leaving the model it starts from: the regularisers that HMA is compared with.

A penalty is a small function of the policy and its batch, already weighted; any loop adds it to its loss. Each is zero, and has
a zero gradient, at the start model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tasks.runtime.models import load_causal, on_device
from tasks.runtime.packing import learned_logits

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tasks.runtime.packing import Batch


class Penalty(Protocol):
    """A policy and a packed batch, and the scalar that is added to the loss of that batch."""

    def __call__(self, model: PreTrainedModel, batch: Batch, logits_NV: torch.Tensor | None = None) -> torch.Tensor:
        """Return the penalty; `logits_NV` are the policy's at the learned tokens, where the caller has them for its loss."""


L1_UNIT, L2_UNIT = 1e5, 1e9
"""What the mean over parameters is multiplied by, as in the code of Lin et al. 2023, so that published strengths are ours."""


def l1(start: PreTrainedModel, strength: float) -> Penalty:
    """Return strength * L1_UNIT * mean over parameters of |theta - theta_start|; tied parameters count once."""
    return _distance(start, strength * L1_UNIT, lambda moved: moved.abs().sum())


def l2(start: PreTrainedModel, strength: float) -> Penalty:
    """Return strength * L2_UNIT * mean over parameters of (theta - theta_start)^2.

    Its gradient is 2 * strength * L2_UNIT / parameters * (theta - theta_start).
    """
    return _distance(start, strength * L2_UNIT, lambda moved: moved.square().sum())


def _distance(start: PreTrainedModel, weight: float, measure: Callable[[torch.Tensor], torch.Tensor]) -> Penalty:
    def penalty(model: PreTrainedModel, batch: Batch, logits_NV: torch.Tensor | None = None) -> torch.Tensor:
        return weight * _mean_over_parameters(model, start, measure)

    return penalty


def distillation(start: PreTrainedModel, strength: float) -> Penalty:
    """Return strength * KL(start || policy), the mean over the learned tokens, in nats: the start model teaches (T = 1)."""

    def penalty(model: PreTrainedModel, batch: Batch, logits_NV: torch.Tensor | None = None) -> torch.Tensor:
        return strength * divergence(_start_logits(start, batch), _given(logits_NV, model, batch))

    return penalty


def kl(start: PreTrainedModel, strength: float) -> Penalty:
    """Return strength * KL(policy || start), the mean over the learned tokens, in nats, summed over the whole vocabulary."""

    def penalty(model: PreTrainedModel, batch: Batch, logits_NV: torch.Tensor | None = None) -> torch.Tensor:
        return strength * divergence(_given(logits_NV, model, batch), _start_logits(start, batch))

    return penalty


PENALTIES: dict[str, Callable[[PreTrainedModel, float], Penalty]] = {
    "l1": l1,
    "l2": l2,
    "distillation": distillation,
    "kl": kl,
}
"""Every penalty by its name in params; each takes the frozen start model and the strength."""
WEIGHTS = frozenset({"l1", "l2"})
"""Those that compare weights and never look at a batch."""


def frozen(policy: Path) -> PreTrainedModel:
    """Return the model in `policy` in float32, not to be learned."""
    model, _ = load_causal(policy)
    return on_device(model.float()).eval().requires_grad_(False)


def divergence(p_NV: torch.Tensor, q_NV: torch.Tensor) -> torch.Tensor:
    """Return the mean of KL(p || q) over rows of logits, in nats; 0 where there are no rows."""
    p_NV, q_NV = p_NV.float().log_softmax(-1), q_NV.float().log_softmax(-1)
    return (p_NV.exp() * (p_NV - q_NV)).sum() / max(1, len(p_NV))


def _given(logits_NV: torch.Tensor | None, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    return learned_logits(model, batch) if logits_NV is None else logits_NV


def _start_logits(start: PreTrainedModel, batch: Batch) -> torch.Tensor:
    import torch

    with torch.no_grad():
        return learned_logits(start, batch)


def _mean_over_parameters(
    model: PreTrainedModel, start: PreTrainedModel, measure: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return the sum of `measure(theta - theta_start)` over all tensors, divided by the number of parameters."""
    import torch

    pairs = list(zip(model.parameters(), start.parameters(), strict=True))
    total = torch.stack([measure(now - before) for now, before in pairs]).sum()
    return total / sum(before.numel() for _, before in pairs)
