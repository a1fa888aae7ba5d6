"""Averaging of the weights along the way: the policy that is kept trails the one that learns, and starts where it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MovingAverage:
    """mean = decay * mean + (1 - decay) * theta after every step, from mean = theta_start.

    After n steps it holds decay^n * theta_start + (1 - decay) * sum over k of decay^(n-k) * theta_k.
    """

    def __init__(self, model: PreTrainedModel, decay: float) -> None:
        """Start at the model's weights."""
        self.decay = decay
        self.mean = [weight.detach().clone() for weight in model.parameters()]

    def update(self, model: PreTrainedModel) -> None:
        """Take in the weights after a step."""
        for mean, weight in zip(self.mean, model.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1 - self.decay)

    def copy_to(self, model: PreTrainedModel) -> None:
        """Put the average in the place of the model's weights."""
        for mean, weight in zip(self.mean, model.parameters(), strict=True):
            weight.data.copy_(mean)
