"""Which of a prompt's samples RAFT learns from, and what they are worth."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tasks.runtime.diversity import distinct


@dataclass(frozen=True)
class Kept:
    """The best answer to a prompt."""

    prompt: str
    completion: str
    reward: float


def best_of(samples: Sequence[str], rewards: Sequence[float], rng: random.Random) -> int | None:
    """Return the index of the sample with the highest reward, or None when every sample is blank.

    This is RAFT's "local" ranking: samples compete within their prompt, so easy prompts do not crowd out hard ones. Of equal
    rewards `rng` draws one, since the first would be favoured for nothing.
    """
    told = [index for index, text in enumerate(samples) if text.strip()]
    if not told:
        return None
    highest = max(rewards[index] for index in told)
    return rng.choice([index for index in told if rewards[index] == highest])


def keep(
    prompts: Sequence[str], samples: Sequence[Sequence[str]], rewards: Sequence[Sequence[float]], rng: random.Random
) -> list[Kept]:
    """Return the best answer of every prompt that has one."""
    kept = []
    for prompt, texts, values in zip(prompts, samples, rewards, strict=True):
        index = best_of(texts, values, rng)
        if index is not None:
            kept.append(Kept(prompt, texts[index], values[index]))
    return kept


def measure(rewards: Sequence[Sequence[float]], kept: Sequence[Kept]) -> dict[str, float]:
    """Return the mean reward of all samples and of the kept ones, distinct-2 of the kept, and how many were kept."""
    return {
        "reward": fmean(value for values in rewards for value in values),
        "kept_reward": fmean(answer.reward for answer in kept),
        "distinct": distinct([answer.completion for answer in kept], 2),
        "kept": len(kept),
    }
