"""What distillation bought and what it cost: every target and seed of the study gathered, and its claims judged.

The cells leave their scores below one folder:

    teacher-topk/SEED.json, recalibrate/SEED.json
    student/TARGET/SEED.json
    student-eval/SEED.json, .csv      all models of a seed: base, teacher, and one student a target
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from tasks.evaluate.cells import read
from tasks.evaluate.distill_claims import FIRST
from tasks.evaluate.interval import t_interval
from tasks.evaluate.page.figures import read_curve
from tasks.evaluate.verdict import ledger
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.stage import In, Out, Run, run_stage

FLOAT = 4
"""Bytes of a probability, were the teacher's whole vocabulary kept."""
Scores = Mapping[str, Any]


class Params(StageParams):
    """The cells of the study, which dvc.yaml makes from the same section, and the level of its intervals."""

    section: ClassVar[str] = "distill"
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2, 3, 4], min_length=1)
    """Seeds of draws, teacher and students."""
    targets: list[Literal["hard", "renormalised", "rest", "full", "temperature", "smoothing", "trustworthy"]] = Field(
        default=["hard", "renormalised", "full", "temperature", "smoothing", "trustworthy"], min_length=1
    )
    """What students learn, as `student.target`."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the intervals over seeds."""


def main(params: Params, run: Run, *, runs: In, scores: Out, curve: Out) -> None:
    """Gather the cells below `runs`; publish models, costs and claims, and all reliability diagrams as rows."""
    seeds = {str(seed): read_seed(runs, str(seed), params.targets) for seed in params.seeds}
    measured = {"seeds": seeds}
    told = {
        "models": summary([seed["models"] for seed in seeds.values()], params.confidence),
        "costs": costs(list(seeds.values()), params.targets),
        "claims": ledger(FIRST, {"distill-tradeoffs": measured}, params.confidence),
    }
    publish_json(scores, {**told, **measured})
    publish_curve(curve, [{"seed": seed, **row} for seed in seeds for row in read_curve(runs / f"student-eval/{seed}.csv")])


def read_seed(runs: Path, seed: str, targets: Sequence[str]) -> dict[str, Any]:
    """Return what the cells of a seed found. Raises UserError for one that is missing or damaged."""
    topk, found = read(runs / f"teacher-topk/{seed}.json"), read(runs / f"recalibrate/{seed}.json")
    models = read(runs / f"student-eval/{seed}.json")["models"]
    for target in targets:
        if target not in models:
            raise UserError(f"{runs}/student-eval/{seed}.json: no student of target {target}; run student and student-eval again")
    return {
        "models": {name: models[name] for name in ("base", "teacher", *targets)},
        "recalibration": {name: found[name] for name in ("c", "mass", "accuracy", "ece_before", "ece_after", "n_valid")},
        "bytes_a_token": topk["sft_bytes_a_token"],
        "bytes_a_token_whole": FLOAT * topk["vocabulary"],
        "seconds": {target: read(runs / f"student/{target}/{seed}.json")["seconds"] for target in targets},
    }


def summary(seeds: Sequence[Mapping[str, Scores]], confidence: float) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return mean, standard deviation and interval over seeds of every number of every model; None where one seed allows none."""
    told: dict[str, dict[str, dict[str, float | None]]] = {}
    for model, first in seeds[0].items():
        told[model] = {}
        for name in first:
            values = [seed[model][name] for seed in seeds]
            mean = t_interval(values, confidence)
            spread = stdev(values) if len(values) > 1 else None
            told[model][name] = {"mean": mean.mean, "sd": spread, "low": mean.low, "high": mean.high}
    return told


def costs(seeds: Sequence[Scores], targets: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return for every target the seconds that a student trains, and the bytes that are kept of the teacher for each token.

    Answers cost nothing beside the data. The whole vocabulary was not kept here but computed anew by the teacher in every step:
    its bytes are what keeping it would take.
    """
    kept = {"hard": 0.0, "full": fmean(seed["bytes_a_token_whole"] for seed in seeds)}
    top = fmean(seed["bytes_a_token"] for seed in seeds)
    return {
        target: {"seconds": fmean(seed["seconds"][target] for seed in seeds), "bytes_a_token": kept.get(target, top)}
        for target in targets
    }


if __name__ == "__main__":
    run_stage(main)
