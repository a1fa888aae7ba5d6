"""What is done to a model's distribution before a token is drawn: repetition penalty, temperature, nucleus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Shaping:
    """How the distribution of the next token is shaped, beside its temperature."""

    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability may be drawn (Holtzman et al., 2020); 1 leaves all."""
    repetition_penalty: float = 1.0
    """Logits of tokens of the prompt and of the text so far are divided by it, negative ones multiplied (CTRL); 1 is none."""


def penalised(logits_BV: torch.Tensor, seen_BV: torch.Tensor, penalty: float) -> torch.Tensor:
    """Return logits in which the tokens of `seen_BV` (bool) are less likely, as Keskar et al. (2019), section 4.1, have it."""
    import torch

    return torch.where(seen_BV, torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty), logits_BV)


def nucleus(probability_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return probabilities with zero for every token outside the nucleus: the fewest likeliest ones that reach `top_p`.

    Not normalised again. The likeliest token always stays; among equally likely ones the lowest id comes first.
    """
    import torch

    sorted_BV, order_BV = probability_BV.sort(stable=True, dim=-1, descending=True)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    kept_BV = torch.where(before_BV < top_p, sorted_BV, 0.0)
    return torch.zeros_like(probability_BV).scatter(-1, order_BV, kept_BV)


def seen_in(prompts: list[list[int]], vocabulary: int, device: torch.device) -> torch.Tensor:
    """Return which tokens of the vocabulary stand in each prompt, bool [prompts, vocabulary]."""
    import torch

    seen_PV = torch.zeros(len(prompts), vocabulary, dtype=torch.bool, device=device)
    for row, ids in enumerate(prompts):
        seen_PV[row, ids] = True
    return seen_PV
