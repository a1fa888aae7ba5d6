"""Turns what was measured into the table of models: one row each, by seed, and means over seeds with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tasks.evaluate.front import Point, compared
from tasks.evaluate.interval import Interval, t_interval
from tasks.evaluate.models import Models, average_name, raft_name

Row = dict[str, Any]
"""`reward`, `skill`, `skills`, `perplexity`, `bits_per_byte`, `distinct`, `reward_model` of one model."""
MEANS = ("reward", "skill", "perplexity", "reward_model", "distinct")
"""What is averaged over seeds."""


def rows_of(measured: Mapping[str, Mapping[str, Any]], before: str = "sft") -> dict[str, Row]:
    """Return the row of each model by name; `before` is the name of the model before RLHF.

    `reward` lies in [0, 1]: the judge's, or without one how surely the reward model prefers an answer to those of the model
    before RLHF, sigmoid(score - its mean score on the same prompt), averaged (Bradley-Terry). `reward_model` is its mean
    score in raw units. `skill` is the mean of all skills.
    """
    usual = [fmean(scores) for scores in measured[before]["scores"]]
    return {name: _row(model, usual) for name, model in measured.items()}


def _row(model: Mapping[str, Any], before: Sequence[float]) -> Row:
    won = [sigmoid(score - average) for scores, average in zip(model["scores"], before, strict=True) for score in scores]
    judged = [reward for rewards in model.get("rewards", []) for reward in rewards]
    return {
        "reward": fmean(judged or won),
        "skill": fmean(model["skills"].values()),
        "skills": model["skills"],
        "perplexity": model["perplexity"],
        "bits_per_byte": model["bits_per_byte"],
        "distinct": model["distinct"],
        "reward_model": fmean(score for scores in model["scores"] for score in scores),
    }


def sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def fronts(models: Models, rows: Mapping[str, Row], seed: str) -> dict[str, list[tuple[float, Row]]]:
    """Return both fronts of a seed as (strength, row) from the model before RLHF to the one after, both included.

    The strength of early stopping is the iteration, that of averaging the weight on the model before RLHF.
    """
    before, after = rows["sft"], rows[raft_name(seed, models.iterations[-1])]
    stopped = [(float(number), rows[raft_name(seed, number)]) for number in models.iterations]
    averaged = [(w_pre, rows[average_name(seed, w_pre)]) for w_pre in models.weights]
    return {"early_stopping": [(0.0, before), *stopped], "averaging": [(1.0, before), *averaged[::-1], (0.0, after)]}


def front_rows(models: Models, rows: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Return every point of every front: seed, method, strength, reward, skill."""
    return [
        {"seed": seed, "method": method, "strength": strength, "reward": row["reward"], "skill": row["skill"]}
        for seed in models.seeds
        for method, front in fronts(models, rows, seed).items()
        for strength, row in front
    ]


def hypervolumes(models: Models, rows: Mapping[str, Row], seed: str, reference: Point) -> dict[str, float]:
    """Return the area that each front of a seed dominates, in the plane of reward and skill."""
    found = fronts(models, rows, seed)
    return compared({method: [(row["reward"], row["skill"]) for _, row in front] for method, front in found.items()}, reference)


def seed_scores(models: Models, rows: Mapping[str, Row], seed: str, reference: Point) -> dict[str, Any]:
    """Return everything that was measured for one seed."""
    return {
        "base": rows["base"],
        "sft": rows["sft"],
        "raft": [{"iteration": number, **rows[raft_name(seed, number)]} for number in models.iterations],
        "average": [{"w_pre": w_pre, **rows[average_name(seed, w_pre)]} for w_pre in models.weights],
        "hypervolume": hypervolumes(models, rows, seed, reference),
    }


def summary(seeds: Mapping[str, Mapping[str, Any]], confidence: float) -> dict[str, Any]:
    """Return means over seeds with intervals: of each iteration, of each average, and of the hypervolumes."""
    each = list(seeds.values())
    first = each[0]
    return {
        "base": {name: first["base"][name] for name in MEANS},
        "sft": {name: first["sft"][name] for name in MEANS},
        "raft": _means([seed["raft"] for seed in each], "iteration", confidence),
        "average": _means([seed["average"] for seed in each], "w_pre", confidence),
        "hypervolume": {
            method: _told(t_interval([seed["hypervolume"][method] for seed in each], confidence))
            for method in first["hypervolume"]
        },
    }


def _means(courses: Sequence[Sequence[Row]], strength: str, confidence: float) -> list[dict[str, Any]]:
    return [
        {strength: same[0][strength]} | {name: _told(t_interval([row[name] for row in same], confidence)) for name in MEANS}
        for same in zip(*courses, strict=True)
    ]


def _told(interval: Interval) -> dict[str, float | None]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
