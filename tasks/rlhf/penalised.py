"""What DPO, GRPO and RLOO share: snapshots on the way, and any penalty of this room added to the loss of TRL's trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tasks.rlhf.penalty import PENALTIES, WEIGHTS, Penalty, frozen
from tasks.runtime.fit.params import FitParams
from tasks.runtime.launch import Place
from tasks.runtime.packing import IGNORED
from tasks.runtime.params import UserError

if TYPE_CHECKING:
    import torch


class PenalisedParams(FitParams):
    """Training of a policy that may be held back."""

    weight_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of matrices by AdamW; norms and biases are left alone."""
    snapshots: int = Field(6, ge=1, le=100)
    """Models kept on the way, evenly spaced; the last one is the end."""
    beta: float = Field(0.1, ge=0)
    """Weight of the KL divergence from the policy before RLHF, as the method itself has it."""
    penalty: Literal["none", "l1", "l2", "distillation", "kl"] = "none"
    """What else holds the policy back."""
    strength: float = Field(0.0, ge=0)
    """Its lambda."""


class Penalised:
    """Mixin for a trainer of TRL: adds a penalty to the loss of every pass."""

    penalty: Penalty | None = None
    loss_is_scaled_for_ga: Any
    current_gradient_accumulation_steps: int

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the trainer's own loss with the penalty, which weighs the same however a step is split into passes."""
        loss: torch.Tensor = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        if self.penalty is None:
            return loss
        passes = self.current_gradient_accumulation_steps if self.loss_is_scaled_for_ga else 1
        return loss + self.penalty(model, as_packed(inputs)) / passes


def chosen_penalty(params: PenalisedParams, policy: Path, place: Place) -> Penalty | None:
    """Return the penalty of `params`, or None. Raises UserError where the weights it compares are in pieces."""
    if params.penalty == "none":
        return None
    if params.penalty in WEIGHTS and place.zero == 3:
        raise UserError(f"{params.section}.penalty: {params.penalty} needs whole weights; set TEMPER_ZERO=2")
    return PENALTIES[params.penalty](frozen(policy), params.strength)


def as_packed(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return TRL's padded batch as a packed one: labels on the answers, and positions that start at 0 where a text starts.

    Padding stands at position 0 on either side, so it is an example of its own, seen by none.
    """
    import torch

    ids_BT, mask_BT, answer_BT = inputs.get("input_ids"), inputs.get("attention_mask"), inputs.get("completion_mask")
    if ids_BT is None:
        ids_BT = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask_BT = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        answer_BT = torch.cat([torch.zeros_like(inputs["prompt_mask"]), inputs["completion_mask"]], 1)
    assert mask_BT is not None
    assert answer_BT is not None
    return {
        "input_ids": ids_BT,
        "labels": ids_BT.masked_fill(answer_BT == 0, IGNORED),
        "position_ids": (mask_BT.cumsum(1) - 1).clamp(min=0) * mask_BT,
    }
