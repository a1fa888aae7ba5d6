"""Every way to trade reward for skill as one front each: what the alignment-tax study finds.

The cells of the study leave their scores below one folder, by method, algorithm or strength, and seed:

    pre/model.json                     the model before RLHF
    early_stopping/ALGORITHM/SEED.json its iterations
    averaging, hma, part-K             likewise, a sweep of w_pre
    free/none/SEED.json                RAFT's answers learned once more, freely: where the regularised fronts end
    regularised/METHOD-STRENGTH/SEED.json

A front runs from the model before RLHF to the one after, both included. More points alone dominate more (hma.md has the
figures), so areas are compared only between fronts of equally many points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from tasks.evaluate.cells import read
from tasks.evaluate.front import hypervolume
from tasks.evaluate.interval import t_interval
from tasks.evaluate.measure import Unit
from tasks.evaluate.tax_claims import TAX
from tasks.evaluate.verdict import ledger
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.stage import In, Out, Run, run_stage

SWEPT = ("averaging", "hma")
"""Methods that go back along the line, beside `part-K`."""
REGULARISED = "raft"
"""The algorithm whose answers the regularised methods learn."""
FREEING = ("lora",)
"""Regularised methods that hold back less the larger their strength is: a rank, where others have a weight or a decay."""
Row = Mapping[str, Any]


class Params(StageParams):
    """The cells of the study, which dvc.yaml makes from the same section, and how their fronts are compared."""

    section: ClassVar[str] = "tax"
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2], min_length=1)
    """Seeds of every cell; RAFT must have run with them."""
    algorithms: list[Literal["raft", "dpo", "ppo", "grpo", "rloo"]] = Field(default=["raft"], min_length=1)
    """Whose runs are stopped early and averaged; RAFT among them, whose answers the regularised methods learn."""
    parts: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    """Which part of the layers is averaged alone, from 0 on the input side."""
    mitigations: list[str] = Field(default_factory=list)
    """What RAFT's answers are learned with, METHOD-STRENGTH each."""
    reference: tuple[Unit, Unit] = Field(default=(0.0, 0.0), strict=False)
    """Reward and skill from which the hypervolume is measured; fixed before any run."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the intervals over seeds."""


@dataclass(frozen=True)
class Front:
    """One method's front of one algorithm and seed, from the model before RLHF to the one after."""

    algorithm: str
    method: str
    seed: str
    points: Sequence[tuple[float | None, Row]]
    """(strength, row); the strength of an end that no strength stands for is None."""

    def area(self, reference: tuple[float, float]) -> float:
        """Return the hypervolume of the front in the plane of reward and mean skill."""
        return hypervolume([(row["reward"], row["skill"]) for _, row in self.points], reference)


def main(params: Params, run: Run, *, cells: In, ratios: In, scores: Out, fronts: Out) -> None:
    """Gather the cells below `cells` and HMA's own scores in `ratios`; publish fronts, areas, ratios and claims."""
    found = list(read_fronts(cells, params))
    areas = hypervolumes(found, params.reference)
    measured = {
        "courses": courses(found),
        "hypervolume": areas,
        "ratios": {
            algorithm: {str(seed): read(ratios / algorithm / f"{seed}.json") for seed in params.seeds}
            for algorithm in params.algorithms
        },
    }
    told = {algorithm: summarised(methods, params.confidence) for algorithm, methods in areas.items()}
    claims = ledger(TAX, {"tradeoffs": measured}, params.confidence)
    publish_json(scores, {"areas": told, **measured, "claims": claims})
    publish_curve(fronts, [row for front in found for row in curve_rows(front)])


def read_fronts(cells: Path, params: Params) -> Iterator[Front]:
    """Yield every front that the cells make up. Raises UserError for a cell that is missing or damaged."""
    before = read(cells / "pre/model.json")["model"]
    swept: list[tuple[str, str]] = [(method, algorithm) for algorithm in params.algorithms for method in SWEPT]
    swept += [(f"part-{part}", "raft") for part in params.parts]
    for seed in map(str, params.seeds):
        ends: dict[str, Row] = {}
        for algorithm in params.algorithms:
            rows = numbered(read(cells / "early_stopping" / algorithm / f"{seed}.json"), "iteration-")
            ends[algorithm] = rows[-1][1]
            yield Front(algorithm, "early_stopping", seed, [(0.0, before), *rows])
        for method, run in swept:
            averages = numbered(read(cells / method / run / f"{seed}.json"), "w_pre-")[::-1]
            yield Front(run, method, seed, [(1.0, before), *averages, (0.0, ends[run])])
        yield from _regularised(cells, params.mitigations, seed, before)


def _regularised(cells: Path, mitigations: Sequence[str], seed: str, before: Row) -> Iterator[Front]:
    found: dict[str, list[tuple[float, Row]]] = {}
    for mitigation in mitigations:
        method, _, strength = mitigation.partition("-")
        row = read(cells / "regularised" / mitigation / f"{seed}.json")["model"]
        found.setdefault(method, []).append((float(strength), row))
    if found:
        free = read(cells / f"free/none/{seed}.json")["model"]
        for method, points in found.items():
            points.sort(key=lambda point: point[0], reverse=method not in FREEING)
            yield Front(REGULARISED, method, seed, [(None, before), *points, (None, free)])


def numbered(rows: Mapping[str, Row], prefix: str) -> list[tuple[float | None, Row]]:
    """Return the rows named `prefix`NUMBER as (number, row), ascending."""
    found = [(float(name.removeprefix(prefix)), row) for name, row in rows.items() if name.startswith(prefix)]
    return [(number, row) for number, row in sorted(found, key=lambda point: point[0])]


def hypervolumes(found: Sequence[Front], reference: tuple[float, float]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return `points` and the area by seed of each algorithm's methods. Raises UserError where seeds differ in their points."""
    areas: dict[str, dict[str, dict[str, Any]]] = {}
    for front in found:
        entry = areas.setdefault(front.algorithm, {}).setdefault(front.method, {"points": len(front.points), "seeds": {}})
        if entry["points"] != len(front.points):
            raise UserError(
                f"{front.method} of {front.algorithm}: seed {front.seed} has {len(front.points)} points, the others "
                f"{entry['points']}; run the cells that are missing"
            )
        entry["seeds"][front.seed] = front.area(reference)
    return areas


def summarised(methods: Mapping[str, Mapping[str, Any]], confidence: float) -> dict[str, dict[str, Any]]:
    """Return mean and interval of each method's area, and of its gain over early stopping where both have as many points."""
    stopped = methods["early_stopping"]
    told = {}
    for method, entry in methods.items():
        area = t_interval(list(entry["seeds"].values()), confidence)
        told[method] = {"points": entry["points"], "mean": area.mean, "low": area.low, "high": area.high, "gain": None}
        if method != "early_stopping" and entry["points"] == stopped["points"]:
            gain = t_interval([value - stopped["seeds"][seed] for seed, value in entry["seeds"].items()], confidence)
            told[method]["gain"] = {"mean": gain.mean, "low": gain.low, "high": gain.high}
    return told


def courses(found: Sequence[Front]) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Return reward and skill along each algorithm's run, the model before RLHF first, by algorithm and seed."""
    told: dict[str, dict[str, list[dict[str, float]]]] = {}
    for front in found:
        if front.method == "early_stopping":
            course = [{"reward": row["reward"], "skill": row["skill"]} for _, row in front.points]
            told.setdefault(front.algorithm, {})[front.seed] = course
    return told


def curve_rows(front: Front) -> Iterator[dict[str, Any]]:
    """Yield a row for every point of a front."""
    for strength, row in front.points:
        where = {"algorithm": front.algorithm, "method": front.method, "seed": front.seed}
        yield {**where, "strength": "" if strength is None else strength, "reward": row["reward"], "skill": row["skill"]}


if __name__ == "__main__":
    run_stage(main)
