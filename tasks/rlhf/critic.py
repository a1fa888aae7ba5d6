"""The two networks of PPO as one module: the actor that writes, and the critic that foresees the reward.

The critic has a trunk of its own, copied from the policy: the errors of values, large at first, then never move the policy, the
actor stays a plain causal model that is saved as it is, and a mask on the policy's loss is a mask on all that moves it. The price
is a second set of weights. Its head starts at zero, so the first advantages are those of no critic, not of a random one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Rows:
    """Prompts with their answers, right-padded: a causal model never looks at what stands behind, so no mask is needed."""

    ids: torch.Tensor
    """Token ids of prompts and answers, [B, T]."""
    states: torch.Tensor
    """Position of the last token before each action, whose output foretells the action, [B, A]."""
    actions: torch.Tensor
    """Token ids of the answers, stop tokens included, [B, A]."""
    real: torch.Tensor
    """Where there is an action, [B, A]; elsewhere the others hold zeros."""


def rows(prompts: list[list[int]], actions: list[list[int]], device: torch.device) -> Rows:
    """Return prompts and the actions taken after them as tensors, as wide as the longest of them."""
    together = [prompt + taken for prompt, taken in zip(prompts, actions, strict=True)]
    return Rows(
        padded(together, device),
        padded([list(range(len(p) - 1, len(p) - 1 + len(a))) for p, a in zip(prompts, actions, strict=True)], device),
        padded(actions, device),
        padded([[True] * len(taken) for taken in actions], device),
    )


def padded(lists: list[list[int]] | list[list[bool]] | list[list[float]], device: torch.device | None = None) -> torch.Tensor:
    """Return ragged lists as one tensor [B, longest], filled up with zeros."""
    width = max(map(len, lists))
    return torch.tensor([[*values, *[type(values[0])(0)] * (width - len(values))] for values in lists], device=device)


class Critic(torch.nn.Module):
    """A trunk and one output: the value of a state, in units of the reward."""

    def __init__(self, trunk: PreTrainedModel) -> None:
        """Take a trunk (a model without output layer) as it is, and a head of zeros."""
        super().__init__()
        self.trunk = trunk
        self.head = torch.nn.Linear(trunk.config.get_text_config().hidden_size, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, batch: Rows) -> torch.Tensor:
        """Return the value of the state before each action, [B, A], in float32."""
        hidden_BTD = self.trunk(input_ids=batch.ids, use_cache=False).last_hidden_state
        values: torch.Tensor = self.head(hidden_BTD[_row(batch), batch.states]).squeeze(-1).float()
        return values


class ActorCritic(torch.nn.Module):
    """The actor and the critic, under one optimizer."""

    def __init__(self, actor: PreTrainedModel, critic: Critic) -> None:
        """Take both as they are."""
        super().__init__()
        self.actor, self.critic = actor, critic

    def forward(
        self, batch: Rows, temperature: float, tokens: Sequence[int] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what `judged` does of the actor, and the value of the state before each action, [B, A]."""
        logprobs_BA, entropy_BA, told_BAK = judged(self.actor, batch, temperature, tokens)
        return logprobs_BA, entropy_BA, told_BAK, self.critic(batch)


def judged(
    model: PreTrainedModel, batch: Rows, temperature: float, tokens: Sequence[int] = ()
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return log-probability of each action and entropy of the choice, [B, A], of softmax(logits / temperature), in nats; and the
    log-probabilities of K `tokens` in the place of each action, [B, A, K].

    That is the distribution the actions are drawn from. Only states before an action go through the output layer.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][_row(batch), batch.states], *inputs[1:]))
    try:
        logits_BAV = model(input_ids=batch.ids, use_cache=False).logits
    finally:
        hook.remove()
    logprobs_BAV = torch.log_softmax(logits_BAV.float() / temperature, -1)
    entropy_BA = -(logprobs_BAV.exp() * logprobs_BAV).sum(-1)
    return logprobs_BAV.gather(-1, batch.actions[..., None]).squeeze(-1), entropy_BA, logprobs_BAV[..., list(tokens)]


def _row(batch: Rows) -> torch.Tensor:
    return torch.arange(len(batch.ids), device=batch.ids.device)[:, None]
