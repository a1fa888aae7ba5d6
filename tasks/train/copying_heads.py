"""Lets a new Llama begin with heads that copy: what follows the same three tokens earlier in the text is likely to follow again.

A proof repeats names that its statement gave. Attention learns to look such a name up by itself (induction heads: Olsson et
al., 2022), but late: a Llama of a million parameters had not begun to after a million tokens of proofs. So its weights start
near a circuit that does, as those of vision models start near what is found in trained ones (mimetic initialisation: Trockman
and Kolter, 2023). Training is free to change every weight.

Three heads of the first layer look 1, 2 and 3 tokens back and write what stands there beside the token itself. Two heads of the
second match what stands at and before a token with what stands before others, and bring up the token that came next there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaAttention

BACK = 3
"""Tokens back that a match takes in."""
THETA = 1e6
"""Base of the rotary positions: at the usual 10,000 too few dimensions of a small head keep still over a whole proof."""
CONSTANT, IDENTITY = 0.3, 0.1
"""Size of the one dimension that is equal in all embeddings, and standard deviation of those that tell tokens apart."""
STILL = 0.006
"""Radians that a dimension may turn from a token to the next to be matched by: about half a turn over 512 tokens."""
POINTING = (8.0, 4.0, 2.0, 2.0)
"""Logits that the fastest turning dimensions add where a head points to."""
MATCHED = 1.5
"""How strongly queries and keys of the heads that match take in each token; larger makes no more of them match."""
COPIED, OWN = 0.8, 0.2
"""How strongly a token that was found is brought up, and the token itself, which seldom comes twice, is taken back."""


@dataclass(frozen=True)
class Plan:
    """Which dimensions hold what."""

    model: LlamaForCausalLM

    @property
    def width(self) -> int:
        """Dimensions of the residual stream."""
        return int(self.model.config.hidden_size)

    @property
    def head(self) -> int:
        """Dimensions of a head."""
        return self.width // int(self.model.config.num_attention_heads)

    @property
    def places(self) -> list[range]:
        """Dimensions for the token itself, and for those 1, 2, 3 back; dimension 0 is the constant."""
        starts = [1 + number * self.head for number in range(BACK + 1)]
        return [range(start, min(start + self.head, self.width)) for start in starts]

    @property
    def turns(self) -> list[float]:
        """Radians by which each pair of a head's dimensions turns from one token to the next."""
        return [THETA ** (-2 * pair / self.head) for pair in range(self.head // 2)]


def plant(model: LlamaForCausalLM, seed: int) -> None:
    """Change the weights of a new Llama with rotary base THETA, at least 4 heads and 2 layers, into those that copy."""
    import torch

    plan, draw = Plan(model), torch.Generator().manual_seed(seed)
    own, *before = plan.places
    layers = [layer.self_attn for layer in model.model.layers[:2]]
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[:, 0] = CONSTANT
        embedding[:, own] = IDENTITY * torch.randn(len(embedding), len(own), generator=draw)
        seen = CONSTANT / float(embedding.pow(2).mean().sqrt())  # what the norm makes of the constant
        for back, place in enumerate(before, 1):
            _point(plan, layers[0], back - 1, back, seen)
            _carry(plan, layers[0], back - 1, own, place, CONSTANT / seen)
        told = sum(len(place) for place in plan.places)
        seen = CONSTANT / math.sqrt((CONSTANT**2 + told * IDENTITY**2) / plan.width)
        for head in (0, 1):
            _match(plan, layers[1], head, draw)
            _carry(plan, layers[1], head, own, own, COPIED)
        _point(plan, layers[1], 2, 0, seen)
        _carry(plan, layers[1], 2, own, own, -OWN)


def _point(plan: Plan, layer: LlamaAttention, head: int, back: int, constant: float) -> None:
    """Have a head look `back` tokens back, whatever stands there: its queries and keys are fixed, apart by that many turns."""
    rows = slice(head * plan.head, (head + 1) * plan.head)
    query, key = layer.q_proj.weight[rows], layer.k_proj.weight[rows]
    query *= 0.1
    key *= 0.1
    for pair, logits in enumerate(POINTING[: len(plan.turns)]):
        size, angle = math.sqrt(logits * math.sqrt(plan.head)) / constant, back * plan.turns[pair]
        query[pair, 0] = size
        key[pair, 0], key[pair + plan.head // 2, 0] = size * math.cos(angle), size * math.sin(angle)


def _carry(plan: Plan, layer: LlamaAttention, head: int, source: range, target: range, gain: float) -> None:
    """Have a head write `gain` times the `source` dimensions of what it looks at into the `target` dimensions."""
    size = math.sqrt(abs(gain))
    for row, (one, other) in enumerate(zip(source, target, strict=False), head * plan.head):
        layer.v_proj.weight[row, one] += size
        layer.o_proj.weight[other, row] += math.copysign(size, gain)


def _match(plan: Plan, layer: LlamaAttention, head: int, draw: torch.Generator) -> None:
    """Have a head look where the tokens before are those at and before its own place, as far as its still dimensions tell."""
    import torch

    half, rows = plan.head // 2, []
    for pair, turn in enumerate(plan.turns):
        if turn < STILL:
            rows += [head * plan.head + pair, head * plan.head + pair + half]
    for here, there in zip(plan.places, plan.places[1:], strict=False):
        count = min(len(here), len(there))
        mixed = torch.linalg.qr(torch.randn(count, count, generator=draw))[0][: len(rows)]
        for row, weights in zip(rows, mixed, strict=False):
            layer.q_proj.weight[row, here[:count]] += MATCHED * weights
            layer.k_proj.weight[row, there[:count]] += MATCHED * weights
