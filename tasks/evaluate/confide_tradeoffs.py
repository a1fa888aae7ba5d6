"""What stating a confidence bought and what it cost: every model and seed of the study gathered, and SaySelf's claims judged.

The cells leave their scores below one folder:

    confidence-data/SEED.json
    sayself-rl/REWARD/SEED.json, .csv     which iteration was kept, and the course of all
    sayself-eval/SEED.json, .csv          all models of a seed: untuned, after stage 1, and after stage 2 by each reward
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tasks.evaluate.cells import read
from tasks.evaluate.confide_claims import SAYSELF
from tasks.evaluate.interval import t_interval
from tasks.evaluate.page.figures import read_curve
from tasks.evaluate.verdict import ledger
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.stage import In, Out, Run, run_stage

MODELS = ("untuned", "bare", "stage1", "quadratic", "linear")
"""In the order in which they are shown."""
REWARDS = ("quadratic", "linear")


class Params(StageParams):
    """The cells of the study, which dvc.yaml makes from the same section, and the level of its intervals."""

    section: ClassVar[str] = "confide"
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2, 3, 4], min_length=1)
    """Seeds of split, samples, tuning and reinforcement."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the intervals over seeds."""


def main(params: Params, run: Run, *, runs: In, scores: Out, stated: Out, courses: Out) -> None:
    """Gather the cells below `runs`: models and claims, how often each confidence was stated, and the courses of stage 2."""
    seeds = {str(seed): read_seed(runs, str(seed)) for seed in params.seeds}
    measured = {"seeds": seeds}
    told = {
        "models": {name: summary([seed["models"][name] for seed in seeds.values()], params.confidence) for name in MODELS},
        "claims": ledger(SAYSELF, {"confide-tradeoffs": measured}, params.confidence),
    }
    publish_json(scores, {**told, **measured})
    publish_curve(stated, [{"seed": seed, **row} for seed in seeds for row in read_curve(runs / f"sayself-eval/{seed}.csv")])
    publish_curve(courses, [row for seed in seeds for row in course(runs, seed)])


def read_seed(runs: Path, seed: str) -> dict[str, Any]:
    """Return what the cells of a seed found. Raises UserError for one that is missing or damaged, or a model not measured."""
    found, labels = read(runs / f"sayself-eval/{seed}.json"), read(runs / f"confidence-data/{seed}.json")
    if missing := [name for name in MODELS if name not in found["models"]]:
        raise UserError(f"{runs}/sayself-eval/{seed}.json: no model {missing[0]}; make it and run sayself-eval again")
    return {
        "models": {name: found["models"][name] for name in MODELS},
        "probe_auroc": found["probe_auroc"],
        "chosen": {reward: read(runs / f"sayself-rl/{reward}/{seed}.json")["chosen"] for reward in REWARDS},
        "data": {name: labels[name] for name in ("rows", "test", "kept_gold", "mean_label", "keep", "summariser", "clusters")},
    }


def course(runs: Path, seed: str) -> list[dict[str, Any]]:
    """Return the rows of both courses of stage 2: KL from stage 1, and what the validation questions said."""
    kept = ("iteration", "valid_reward", "valid_accuracy", "valid_confidence", "kl")
    rows = {reward: read_curve(runs / f"sayself-rl/{reward}/{seed}.csv") for reward in REWARDS}
    return [{"seed": seed, "reward": reward, **{k: row[k] for k in kept}} for reward in REWARDS for row in rows[reward]]


def summary(seeds: Sequence[Mapping[str, float]], confidence: float) -> dict[str, dict[str, float | None]]:
    """Return mean, standard deviation and interval over seeds of every number that all seeds have; None where one seed allows
    none."""
    shared = [name for name in seeds[0] if all(name in seed for seed in seeds)]
    told = {}
    for name in shared:
        values = [seed[name] for seed in seeds]
        mean = t_interval(values, confidence)
        spread = stdev(values) if len(values) > 1 else None
        told[name] = {"mean": mean.mean, "sd": spread, "low": mean.low, "high": mean.high}
    return told


if __name__ == "__main__":
    run_stage(main)
