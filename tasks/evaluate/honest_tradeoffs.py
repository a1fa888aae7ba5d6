"""Gathers what every step of the chain did, over its seeds, and judges the papers' claims about the steps."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tasks.evaluate.cells import read
from tasks.evaluate.honest_claims import CHAIN, STAGE
from tasks.evaluate.page.figures import read_curve
from tasks.evaluate.verdict import ledger
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.stage import In, Out, Run, run_stage

Told = dict[str, Any]


class Params(StageParams):
    """The seeds of the chain, which dvc.yaml makes its cells from, and the level of its intervals."""

    section: ClassVar[str] = "honest"
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2], min_length=1)
    """Of raft.seeds: each has an aligned model of its own."""
    w_pre: float = Field(0.2, ge=0, le=1)
    """Which of the averaged models is taken: its weight on the model before RLHF."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the intervals over seeds."""


def main(params: Params, run: Run, *, runs: In, scores: Out, refusals: Out, reliability: Out) -> None:
    """Gather `runs`/eval/SEED.json and .csv: means and spread of every step, its refusals by exposure, and the claims."""
    seeds = {str(seed): read(runs / f"eval/{seed}.json") for seed in params.seeds}
    told = {"steps": steps(list(seeds.values())), "claims": ledger(CHAIN, {STAGE: {"seeds": seeds}}, params.confidence)}
    publish_json(scores, {**told, "w_pre": params.w_pre, "seeds": seeds})
    publish_curve(refusals, [row for seed, found in seeds.items() for row in refused(seed, found)])
    publish_curve(reliability, [{"seed": seed, **row} for seed in seeds for row in read_curve(runs / f"eval/{seed}.csv")])


def steps(seeds: Sequence[Told]) -> dict[str, dict[str, Told]]:
    """Return mean, standard deviation and number of seeds of every number of every step, None where no seed has it."""
    found: dict[str, dict[str, Told]] = {}
    for step, first in seeds[0]["steps"].items():
        names = [name for name, value in first.items() if not isinstance(value, dict)]
        found[step] = {name: spread([seed["steps"][step][name] for seed in seeds]) for name in names}
    return found


def spread(values: Sequence[float | None]) -> Told:
    """Return the mean and the standard deviation of what there is, and how many that are."""
    there = [value for value in values if value is not None]
    return {"mean": fmean(there) if there else None, "sd": stdev(there) if len(there) > 1 else None, "seeds": len(there)}


def refused(seed: str, found: Told) -> list[Told]:
    """Return a row for every step and exposure: how often it refused."""
    return [
        {"seed": seed, "step": step, "exposure": int(exposure), "refusal": rate}
        for step, scores in found["steps"].items()
        for exposure, rate in scores["refusal_by_exposure"].items()
    ]


if __name__ == "__main__":
    run_stage(main)
