"""What the HMA paper claims of the alignment tax, as the study of all algorithms and mitigations measures it.

The effects are read from the scores of `tradeoffs`: `courses` (reward and skill along a run) and `hypervolume` (areas), both
by algorithm and seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tasks.evaluate.ledger import Claim, Effects, Scores

ALGORITHMS = {"raft": "RAFT", "dpo": "DPO", "ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO"}
BASELINES = ("l1", "l2", "distillation", "kl", "replay", "lora", "moving_average")
"""The regularised rivals of averaging."""
PAPER = "HMA"


def tax_grows(algorithm: str) -> Effects:
    """Return Spearman's correlation of reward and skill along each seed's run; 0 where one never moves."""

    def correlation(course: Sequence[Scores]) -> float:
        from scipy import stats

        rewards, skills = [row["reward"] for row in course], [row["skill"] for row in course]
        if len(set(rewards)) == 1 or len(set(skills)) == 1:
            return 0.0
        return float(stats.spearmanr(rewards, skills).statistic)

    return lambda scores: [correlation(course) for course in scores["courses"].get(algorithm, {}).values()]


def area_gain(algorithm: str, method: str, over: str) -> Effects:
    """Return, by seed, the area of one method minus that of another with as many points; nothing where either was not run."""

    def effects(scores: Scores) -> list[float]:
        methods = scores["hypervolume"].get(algorithm, {})
        if not {method, over} <= methods.keys() or methods[method]["points"] != methods[over]["points"]:
            return []
        one, other = methods[method]["seeds"], methods[over]["seeds"]
        return [one[seed] - other[seed] for seed in one if seed in other]

    return effects


def above_most_baselines(scores: Scores) -> list[float]:
    """Return, by seed, the area of averaging minus the median area of the regularised methods with as many points."""
    methods = scores["hypervolume"].get("raft", {})
    averaging = methods.get("averaging")
    if averaging is None:
        return []
    rivals = [methods[name] for name in BASELINES if name in methods and methods[name]["points"] == averaging["points"]]
    return (
        [area - median(rival["seeds"][seed] for rival in rivals) for seed, area in averaging["seeds"].items()] if rivals else []
    )


def input_side_first(scores: Scores) -> Sequence[float]:
    """Return, by seed, the area of averaging the input-side part alone minus that of averaging the output-side part alone."""
    parts = sorted(name for name in scores["hypervolume"].get("raft", {}) if name.startswith("part-"))
    return area_gain("raft", parts[0], parts[-1])(scores) if len(parts) > 1 else []


def _grows(algorithm: str) -> Claim:
    return Claim(
        paper=PAPER,
        claim=f"The tax grows with the reward along {ALGORITHMS[algorithm]}.",
        metric="Spearman's correlation of reward and mean skill along the run, the model before RLHF included",
        direction="down",
        published="reward up, reading and translation down (figure)",
        stage="tradeoffs",
        effects=tax_grows(algorithm),
    )


def _beats(algorithm: str) -> Claim:
    return Claim(
        paper=PAPER,
        claim=f"Averaging trades better than stopping {ALGORITHMS[algorithm]} early.",
        metric="hypervolume of reward and mean skill: averaging minus early stopping, equally many points",
        direction="up",
        published="front of averaging above that of early stopping (figure; RSF, DPO and PPO)",
        stage="tradeoffs",
        effects=area_gain(algorithm, "averaging", "early_stopping"),
    )


def _heterogeneous(algorithm: str) -> Claim:
    return Claim(
        paper=PAPER,
        claim=f"Learned ratios are at least as good as uniform ones of the same mean, after {ALGORITHMS[algorithm]}.",
        metric="hypervolume of reward and mean skill: HMA minus uniform averaging at the same means",
        direction="up",
        published="Zephyr-7B-beta: reading 37.47 to 38.93, win rate 8.10 to 9.32 with HMA at 0.2; above uniform (figure)",
        stage="tradeoffs",
        effects=area_gain(algorithm, "hma", "averaging"),
    )


TAX: tuple[Claim, ...] = (
    *map(_grows, ALGORITHMS),
    *map(_beats, ALGORITHMS),
    Claim(
        paper=PAPER,
        claim="Averaging lies above most regularised rivals.",
        metric="hypervolume after RAFT: averaging minus the median of the regularised methods, equally many points",
        direction="up",
        published="front of averaging above almost all baselines; replay beats it on reading only (figure)",
        stage="tradeoffs",
        effects=above_most_baselines,
    ),
    *map(_heterogeneous, ALGORITHMS),
    Claim(
        paper=PAPER,
        claim="Low parts matter differently: averaging the input side alone trades better than the output side alone.",
        metric="hypervolume after RAFT: averaging only the first part minus averaging only the last",
        direction="up",
        published="averaging the input-side part can improve reward and NLP tasks both (figure; RSF, DPO and PPO)",
        stage="tradeoffs",
        effects=input_side_first,
    ),
)
"""All claims of the study, in the order in which its page shows them."""
