"""The params that every stage has that fits a model with the Trainer."""

from __future__ import annotations

from pydantic import Field

from tasks.runtime.params import TrainingParams


class FitParams(TrainingParams):
    """How a model is fitted to a data set: AdamW, cosine schedule with warm-up, gradients clipped at norm 1."""

    epochs: float = Field(1.0, gt=0, le=1000)
    """Passes over the data; a fraction of one is allowed."""
    weight_decay: float = Field(0.01, ge=0, lt=1)
    """Decay of matrices by AdamW; norms and biases are left alone."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises to its peak."""
