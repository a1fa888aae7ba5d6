"""From the reward of whole answers to the advantage of every token: KL penalty, generalised advantage estimation, whitening.

All tensors are [N, A], answers by actions; `real_NA` is true where an answer has an action, and nothing else is ever read. An
answer is an episode: it ends at its last action, whether by its stop token or because it was cut.
"""

from __future__ import annotations

import torch


def token_rewards(scores_N: torch.Tensor, gap_NA: torch.Tensor, real_NA: torch.Tensor, kl_weight: float) -> torch.Tensor:
    """Return the reward of every action: `-kl_weight * gap`, and the answer's score on its last action.

    `gap_NA` is log pi - log pi_ref of the action under the policy that drew it, in nats (Ziegler et al. 2019, eq. 2; Ouyang et
    al. 2022, eq. 2, without the pretraining term). Every answer must have an action.
    """
    rewards_NA = torch.where(real_NA, -kl_weight * gap_NA, 0.0)
    last_N = real_NA.sum(1) - 1
    rewards_NA[torch.arange(len(scores_N)), last_N] += scores_N
    return rewards_NA


def gae(
    rewards_NA: torch.Tensor, values_NA: torch.Tensor, real_NA: torch.Tensor, discount: float, trace: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages and value targets, both [N, A] and zero where there is no action.

    delta_t = r_t + discount * V_{t+1} - V_t and A_t = delta_t + discount * trace * A_{t+1}, with V and A zero after the last
    action (Schulman et al. 2017, eq. 11 and 12); the target of V_t is A_t + V_t. V_t values the state before action t.
    """
    values_NA = torch.where(real_NA, values_NA, 0.0)
    advantages_NA = torch.zeros_like(values_NA)
    following_N = torch.zeros_like(values_NA[:, 0])
    next_value_N = torch.zeros_like(following_N)
    for step in reversed(range(values_NA.shape[1])):
        delta_N = rewards_NA[:, step] + discount * next_value_N - values_NA[:, step]
        following_N = torch.where(real_NA[:, step], delta_N + discount * trace * following_N, 0.0)
        next_value_N = values_NA[:, step]
        advantages_NA[:, step] = following_N
    return advantages_NA, advantages_NA + values_NA


def whiten(values_NA: torch.Tensor, mask_NA: torch.Tensor) -> torch.Tensor:
    """Return the values shifted and scaled to mean 0 and variance 1 over the mask, and 0 outside it.

    Values that hardly differ become zero instead of magnified rounding.
    """
    chosen = values_NA[mask_NA]
    return torch.where(mask_NA, (values_NA - chosen.mean()) / (chosen.std(correction=0) + 1e-6), 0.0)


def explained_variance(values_NA: torch.Tensor, targets_NA: torch.Tensor, real_NA: torch.Tensor) -> float:
    """Return 1 - Var(target - value) / Var(target) over all actions: 1 for a perfect critic, 0 for a constant one."""
    targets = targets_NA[real_NA]
    variance = targets.var(correction=0)
    return float(1 - (targets - values_NA[real_NA]).var(correction=0) / variance) if variance > 0 else 0.0
