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

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

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
Row = Mapping[str, Any]


class Params(StageParams):
    """Params of the study's fronts."""

    section: ClassVar[str] = "tradeoffs"
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
    found = list(read_fronts(cells))
    if not found:
        raise UserError(f"{cells}: holds no front; run the cells of the study first")
    areas = hypervolumes(found, params.reference)
    measured = {
        "courses": courses(found),
        "hypervolume": areas,
        "ratios": read_ratios(ratios),
    }
    told = {algorithm: summarised(methods, params.confidence) for algorithm, methods in areas.items()}
    claims = ledger(TAX, {"tradeoffs": measured}, params.confidence)
    publish_json(scores, {"areas": told, **measured, "claims": claims})
    publish_curve(fronts, [row for front in found for row in curve_rows(front)])


def read_fronts(cells: Path) -> Iterator[Front]:
    """Yield every front that the cells make up."""
    before = read(cells / "pre/model.json")["model"]
    for path in sorted((cells / "early_stopping").glob("*/*.json")):
        algorithm, seed, rows = path.parent.name, path.stem, numbered(read(path), "iteration-")
        yield Front(algorithm, "early_stopping", seed, [(0.0, before), *rows])
        for method in (*SWEPT, *sorted(place.name for place in cells.glob("part-*"))):
            swept = cells / method / algorithm / f"{seed}.json"
            if swept.exists():
                averages = numbered(read(swept), "w_pre-")[::-1]
                yield Front(algorithm, method, seed, [(1.0, before), *averages, (0.0, rows[-1][1])])
    for path in sorted(cells.glob("free/*/*.json")):
        yield from _regularised(cells, path.stem, before, read(path)["model"])


def _regularised(cells: Path, seed: str, before: Row, free: Row) -> Iterator[Front]:
    found: dict[str, list[tuple[float | None, Row]]] = {}
    for path in cells.glob(f"regularised/*/{seed}.json"):
        method, _, strength = path.parent.name.partition("-")
        found.setdefault(method, []).append((float(strength), read(path)["model"]))
    for method, points in sorted(found.items()):
        yield Front(REGULARISED, method, seed, [(None, before), *sorted(points, key=lambda point: point[0] or 0), (None, free)])


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


def read_ratios(ratios: Path) -> dict[str, dict[str, Any]]:
    """Return HMA's own scores by algorithm and seed."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(ratios.glob("*/*.json")):
        found.setdefault(path.parent.name, {})[path.stem] = read(path)
    return found


def curve_rows(front: Front) -> Iterator[dict[str, Any]]:
    """Yield a row for every point of a front."""
    for strength, row in front.points:
        where = {"algorithm": front.algorithm, "method": front.method, "seed": front.seed}
        yield {**where, "strength": "" if strength is None else strength, "reward": row["reward"], "skill": row["skill"]}


def read(path: Path) -> dict[str, Any]:
    """Read the scores of a cell. Raises UserError when they are missing or damaged."""
    try:
        scores: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the cell of the study that makes it first") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error.msg} in line {error.lineno}; run the cell that makes it again") from None
    return scores


if __name__ == "__main__":
    run_stage(main)
