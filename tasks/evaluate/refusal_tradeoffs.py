"""What refusal was worth: every system and seed of the study gathered, and the claims judged.

The cells leave below one folder:

    world/SEED.json                        sizes of the world
    data/SEED.json                         what the untuned model knows
    eval/SEED.json, .csv, reliability/SEED.csv    all systems, their risk-coverage curves and reliability diagrams
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tasks.evaluate.cells import read
from tasks.evaluate.interval import spread
from tasks.evaluate.page.figures import read_curve
from tasks.evaluate.refusal_claims import R_TUNING
from tasks.evaluate.verdict import ledger
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.stage import In, Out, Run, run_stage

ENTROPIES = ("entropy_d0", "entropy_d1")


class Params(StageParams):
    """The cells of the study, which dvc.yaml makes from the same section, and the level of its intervals."""

    section: ClassVar[str] = "refuse"
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2, 3, 4], min_length=1)
    """Seeds of world, base model, split, samples and tuning."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the intervals over seeds."""


def main(params: Params, run: Run, *, runs: In, scores: Out, refusals: Out, coverage: Out, reliability: Out) -> None:
    """Gather the cells below `runs`; publish systems, worlds and claims, and three curves with a row for each seed."""
    seeds = {str(seed): read_seed(runs, str(seed)) for seed in params.seeds}
    told = {
        "systems": summary([seed["systems"] for seed in seeds.values()], params.confidence),
        "worlds": summary([seed["world"] for seed in seeds.values()], params.confidence),
        "compared": summary([seed["compared"] for seed in seeds.values()], params.confidence),
        "claims": ledger(R_TUNING, {"refuse-tradeoffs": {"seeds": seeds}}, params.confidence),
    }
    publish_json(scores, {**told, "seeds": seeds})
    publish_curve(refusals, [row for seed, found in seeds.items() for row in by_exposure(seed, found)])
    for out, place in ((coverage, "eval"), (reliability, "reliability")):
        publish_curve(out, [{"seed": seed, **row} for seed in seeds for row in read_curve(runs / f"{place}/{seed}.csv")])


def read_seed(runs: Path, seed: str) -> dict[str, Any]:
    """Return what the cells of a seed found. Raises UserError for one that is missing or damaged."""
    known, found = read(runs / f"data/{seed}.json"), read(runs / f"eval/{seed}.json")
    return {**found, "world": {**found["world"], **{name: known[name] for name in ENTROPIES}}}


def summary(seeds: Sequence[Mapping[str, Any]], confidence: float) -> dict[str, Any]:
    """Return the spread over seeds of every number in a tree of scores, as a tree of the same shape without its other leaves."""
    told: dict[str, Any] = {}
    for name, first in seeds[0].items():
        values = [seed[name] for seed in seeds]
        if isinstance(first, Mapping):
            told[name] = summary(values, confidence)
        elif not any(isinstance(value, bool | str) for value in values):
            told[name] = asdict(spread(values, confidence))
    return told


def by_exposure(seed: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a seed's refusal rates as rows: `seed`, `system`, `exposure`, `refusal`, and how often the base is `wrong`."""
    right = found["world"]["accuracy_by_exposure"]
    return [
        {"seed": seed, "system": name, "exposure": int(times), "refusal": rate, "wrong": 1 - right[times]}
        for name, system in found["systems"].items()
        for times, rate in system["refusal_by_exposure"].items()
    ]


if __name__ == "__main__":
    run_stage(main)
