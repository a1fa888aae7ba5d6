"""What PPO learns from: answers as they were drawn, their scores, and what actor, critic and reference say of every token.

The token ids are those that were sampled. A text decoded and encoded again can have others, whose probabilities the policy never
used. Of several processes each plays a share of the prompts, and all are given everything, so batches are the same on any number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.rlhf.reward import Reward
from tasks.runtime.generate import generate_ids
from tasks.runtime.models import encode_prompt
from tasks.runtime.params import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tasks.rlhf.ppo_params import PPOParams
    from tasks.runtime.progress import Progress


@dataclass(frozen=True)
class Rollout:
    """One answer of the policy."""

    prompt: str
    completion: str
    """Its text, without special tokens: what the reward reads."""
    prompt_ids: list[int]
    actions: list[int]
    """Token ids as drawn; the last one is the stop token, unless the answer was cut."""
    stopped: bool
    """Whether it ended by itself."""


@dataclass(frozen=True)
class Played:
    """A rollout and what is known of it before anything is learned."""

    number: int
    """Number of its prompt among those of the iteration."""
    rollout: Rollout
    score: float
    logprobs: list[float]
    """Log-probability of each action under the policy that drew it, in nats."""
    reference: list[float]
    """That of the reference policy."""
    values: list[float]
    """The critic's value of the state before each action, in units of the reward."""


TokenMask = Callable[[Rollout], Sequence[bool]]
"""Says of every action whether the policy learns from it."""


def play(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    numbers: Sequence[int],
    params: PPOParams,
    seed: int,
    progress: Progress | None = None,
) -> list[Rollout]:
    """Return `params.samples` answers to each of `prompts`, whose `numbers` in the whole list name their random streams."""
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    drawn = generate_ids(
        model,
        tokenizer,
        encoded,
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        samples=params.samples,
        seed=seed,
        batch_size=params.generate_batch,
        progress=progress,
        numbers=numbers,
    )
    return [
        Rollout(prompt, text, ids, one.actions, one.stop is not None)
        for prompt, ids, answers in zip(prompts, encoded, drawn, strict=True)
        for one, text in zip(answers, tokenizer.batch_decode([one.ids for one in answers], skip_special_tokens=True), strict=True)
    ]


def scored(rollouts: Sequence[Rollout], reward: Reward, missing_eos_penalty: float) -> list[float]:
    """Return the reward of each answer, less the penalty where it did not end by itself. Raises UserError for one that is NaN."""
    rewards = reward([(rollout.prompt, rollout.completion) for rollout in rollouts])
    for value, rollout in zip(rewards, rollouts, strict=True):
        if not math.isfinite(value):
            raise UserError(
                f"the reward is {value} for the prompt {rollout.prompt[:80]!r} and the answer {rollout.completion[:80]!r}; "
                "mend the reward: nothing can be learned from it"
            )
    return [value - missing_eos_penalty * (not rollout.stopped) for value, rollout in zip(rewards, rollouts, strict=True)]


def masks(rollouts: Sequence[Rollout], mask: TokenMask | None) -> list[list[bool]]:
    """Return of every action whether the policy learns from it: all of them without a mask.

    Raises UserError when the mask has another length than the answer, or leaves nothing to learn from.
    """
    if mask is None:
        return [[True] * len(rollout.actions) for rollout in rollouts]
    kept = [list(mask(rollout)) for rollout in rollouts]
    for rollout, bits in zip(rollouts, kept, strict=True):
        if len(bits) != len(rollout.actions):
            raise UserError(f"the token mask has {len(bits)} entries for {len(rollout.actions)} actions; give one for each")
    if not any(map(any, kept)):
        raise UserError(
            f"the token mask keeps none of {sum(map(len, kept)):,} actions, so there is nothing to learn; "
            "check what it looks for, or raise max_new_tokens if answers are cut before it"
        )
    return kept
