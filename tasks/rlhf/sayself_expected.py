"""Stage 2 of SaySelf without the noise of drawing a confidence: the expected reward of all eleven, for an answer held fixed.

With what stands before it fixed, the expected reward J = sum_c pi(c) R(I, c) of a confidence of one token has an exact gradient.
PPO's estimate draws one confidence for each answer instead, and at a few hundred answers its noise is larger than what there is
to learn. Answers are still the policy's own, drawn anew in every iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.rlhf.learner import Actions, Learner
from tasks.rlhf.ppo_loss import policy_loss
from tasks.rlhf.ppo_params import PPOParams
from tasks.rlhf.rollout import Rollout
from tasks.runtime.confidence import UNREAD
from tasks.runtime.launch import Place


@dataclass(frozen=True)
class Worth:
    """What an answer's confidence could earn."""

    action: int
    """Number of the action that states it."""
    rewards: Sequence[float]
    """Reward of every confidence in its place."""


WorthOf = Callable[[Rollout], Worth | None]
"""None for a response that states no confidence."""


class ExpectedLearner(Learner):
    """A learner whose policy loss is minus the expected reward of the confidence; where none is stated, that of PPO."""

    def __init__(self, params: PPOParams, place: Place, policy: Path, levels: Sequence[int], worth: WorthOf) -> None:
        """Start from `policy`; `levels` are the tokens of the confidences, in ascending order."""
        super().__init__(params, place, policy)
        self.tokens, self.worth = levels, worth

    def policy_loss(self, actions: Actions) -> tuple[torch.Tensor, torch.Tensor]:
        """Return minus the sum of J over the answers that state a confidence, and PPO's loss of the others."""
        found = [(row, worth) for row, rollout in enumerate(actions.rollouts) if (worth := self.worth(rollout))]
        silent_B = torch.ones(len(actions.rollouts), dtype=torch.bool, device=actions.mask.device)
        silent_B[[row for row, _ in found]] = False
        mask_BA = actions.mask & silent_B[:, None]
        loss, clipped = policy_loss(actions.logprobs, actions.old, actions.advantages, mask_BA, self.params.clip)
        if found:
            rows, places = [row for row, _ in found], [worth.action for _, worth in found]
            told_NK = actions.told[rows, places]
            loss = loss - expected(told_NK, torch.tensor([worth.rewards for _, worth in found]).to(told_NK)).sum()
        return loss, clipped


def expected(logprobs_NK: torch.Tensor, rewards_NK: torch.Tensor) -> torch.Tensor:
    """Return the expected reward [N] of drawing one of K confidences, what is left of the probability earning `UNREAD`."""
    pi_NK = logprobs_NK.exp()
    return (pi_NK * (rewards_NK - UNREAD)).sum(-1) + UNREAD
