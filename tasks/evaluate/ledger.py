"""What the papers claim, as data: to add a claim, add an entry that says what was published and how this run measures it.

An effect is one number for each seed, positive when the measured thing went up. It is read from the scores of one stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Scores = Mapping[str, Any]
Effects = Callable[[Scores], Sequence[float]]

WEIGHT = 0.2
"""The weight on the model before RLHF that the HMA paper advises for a single average."""
KEPT = 0.9
"""Share of RLHF's gain in reward that counts as keeping the reward: a tenth may be lost."""


@dataclass(frozen=True)
class Claim:
    """One claim of one paper."""

    paper: str
    """Short name of the paper."""
    claim: str
    """What it says, in a sentence."""
    metric: str
    """The number whose sign decides, in words."""
    direction: Literal["up", "down"]
    """Which sign of the effect the paper claims."""
    published: str
    """The paper's own figure, or what it shows where it prints none."""
    stage: str
    """Whose scores the effect is read from."""
    effects: Effects
    """The effect in every seed; none where this run did not measure it."""


def each_seed(effect: Callable[[Scores], float | None]) -> Effects:
    """Return the effects of a stage that keeps scores by seed under `seeds`; where `effect` is None, the seed is left out."""
    return lambda scores: [value for seed in scores["seeds"].values() if (value := effect(seed)) is not None]


def reward_gain(seed: Scores) -> float:
    """Return the reward of the last iteration minus that of the model before RLHF."""
    gain: float = seed["raft"][-1]["reward"] - seed["sft"]["reward"]
    return gain


def skill_change(seed: Scores) -> float:
    """Return the mean skill of the last iteration minus that of the model before RLHF."""
    change: float = seed["raft"][-1]["skill"] - seed["sft"]["skill"]
    return change


def rank_correlation(seed: Scores) -> float:
    """Return Spearman's correlation of reward and skill over the model before RLHF and all iterations; 0 if one never moves."""
    from scipy import stats

    course = [seed["sft"], *seed["raft"]]
    rewards, skills = [row["reward"] for row in course], [row["skill"] for row in course]
    if len(set(rewards)) == 1 or len(set(skills)) == 1:
        return 0.0
    return float(stats.spearmanr(rewards, skills).statistic)


def hypervolume_gain(seed: Scores) -> float:
    """Return the area that averaging dominates minus that of early stopping, both with equally many points."""
    gain: float = seed["hypervolume"]["averaging"] - seed["hypervolume"]["early_stopping"]
    return gain


def reward_beyond_kept(seed: Scores) -> float | None:
    """Return by how much averaging at WEIGHT keeps more than the share KEPT of the reward that RLHF gained."""
    average = _average(seed)
    return None if average is None else average["reward"] - seed["sft"]["reward"] - KEPT * reward_gain(seed)


def skill_returned(seed: Scores) -> float | None:
    """Return the mean skill of averaging at WEIGHT minus that of the last iteration."""
    average = _average(seed)
    return None if average is None else average["skill"] - seed["raft"][-1]["skill"]


def distinct_change(seed: Scores) -> float:
    """Return distinct-2 of the last iteration's answers minus that of the model before RLHF."""
    change: float = seed["raft"][-1]["distinct"] - seed["sft"]["distinct"]
    return change


def _average(seed: Scores) -> Scores | None:
    return next((row for row in seed["average"] if row["w_pre"] == WEIGHT), None)


LEDGER: tuple[Claim, ...] = (
    Claim(
        paper="RAFT",
        claim="Learning the best of its own samples raises a policy's reward.",
        metric="reward on held-out prompts: last iteration minus the model before RLHF",
        direction="up",
        published="reward rises along the iterations (figure)",
        stage="evaluate",
        effects=each_seed(reward_gain),
    ),
    Claim(
        paper="LMFlow",
        claim="As RAFT raises the reward, answers become less varied.",
        metric="distinct-2 of answers to held-out prompts: last iteration minus the model before RLHF",
        direction="down",
        published="distinct-n falls as the reward rises (documentation)",
        stage="evaluate",
        effects=each_seed(distinct_change),
    ),
    Claim(
        paper="HMA",
        claim="RLHF costs abilities the model had before: the alignment tax.",
        metric="mean skill: last iteration minus the model before RLHF",
        direction="down",
        published="reading and translation fall along RSF; common sense rises first, then falls (figure)",
        stage="evaluate",
        effects=each_seed(skill_change),
    ),
    Claim(
        paper="HMA",
        claim="Along RLHF, skills fall as the reward rises.",
        metric="Spearman's correlation of reward and mean skill over the iterations, the model before RLHF included",
        direction="down",
        published="reward and abilities trade off along RSF (figure)",
        stage="evaluate",
        effects=each_seed(rank_correlation),
    ),
    Claim(
        paper="HMA",
        claim="Averaging with the model before RLHF trades better than stopping early.",
        metric="hypervolume of reward and mean skill: averaging minus early stopping, equally many points, ends included",
        direction="up",
        published="front of averaging above almost all baselines (figure)",
        stage="evaluate",
        effects=each_seed(hypervolume_gain),
    ),
    Claim(
        paper="HMA",
        claim=f"Averaging at w_pre {WEIGHT:g} gives skills back.",
        metric=f"mean skill: average at w_pre {WEIGHT:g} minus the last iteration",
        direction="up",
        published="Zephyr-7B-beta: reading 37.47 to 38.93, common sense 66.34 to 66.55, translation 36.55 to 37.23",
        stage="evaluate",
        effects=each_seed(skill_returned),
    ),
    Claim(
        paper="HMA",
        claim=f"Averaging at w_pre {WEIGHT:g} keeps the reward.",
        metric=f"reward: average at w_pre {WEIGHT:g} minus what would be {KEPT:.0%} of RLHF's gain",
        direction="up",
        published="Zephyr-7B-beta: win rate 8.10 to 9.32; Zephyr-7B-Gemma: 11.3 to 11.5",
        stage="evaluate",
        effects=each_seed(reward_beyond_kept),
    ),
)
"""All claims, in the order in which the report shows them."""
