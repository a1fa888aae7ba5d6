"""The page of directional preference alignment: the front by angle, round by round, and who wins along which direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tasks.evaluate.page import figures
from tasks.evaluate.page.changes import short
from tasks.evaluate.page.frame import style, template, told_claims
from tasks.evaluate.page.svg import Axis, Chart, Point

PANEL = {"width": 250, "height": 200}
JUDGES = {"true": "by the truth", "model": "by the reward model"}
MISSES = {"true": "off_diagonal", "model": "off_diagonal_model"}
"""By how many bins the best conditioned angle misses the scoring one at most."""


def render(title: str, evaluation: Mapping[str, Any], rows: figures.Rows, claims: Mapping[str, Any]) -> str:
    """Return the page as HTML from the scores and rows of `dpa-eval` and the ledger of its claims."""
    return template("steered.html").render(
        title=title,
        style=style(),
        seeds=len(evaluation["seeds"]),
        head=evaluation,
        fronts=[front(rows, evaluation, judge) for judge in JUDGES],
        courses=courses(evaluation),
        length=by_angle(rows),
        tables=[(JUDGES[judge], evaluation[MISSES[judge]], table(evaluation, judge)) for judge in JUDGES],
        angles=evaluation["angles"],
        rates=[(rate, float(rate) == evaluation["dpo_rate"], values) for rate, values in evaluation["dpo_rates"].items()],
        claims=told_claims(claims["claims"]),
        counts=claims,
    )


def front(rows: figures.Rows, evaluation: Mapping[str, Any], judge: str) -> figures.Figure:
    """Draw helpfulness against verbosity by angle, before any round and after the last; the baselines as diamonds."""
    prefix = "" if judge == "true" else "model_"
    last = max(int(row["round"]) for row in rows)
    found = {number: _front(rows, number, prefix) for number in (0, last)}
    points = [point for each in found.values() for _, point in each]
    singles = _baselines(evaluation) if judge == "true" else []
    everything = points + [point for _, point in singles]
    first, final = found[last][0][0], found[last][-1][0]
    chart = Chart(
        f"Front by angle, {JUDGES[judge]}",
        f"{len(found[last])} angles from {first} to {final} degrees, before the first round and after the last.",
        Axis.around("verbosity", [x for x, _ in everything]),
        Axis.around("helpfulness", [y for _, y in everything]),
        width=420,
        height=320,
    )
    for number, kind, shape in ((0, "early", "square"), (last, "averaged", "circle")):
        course = [point for _, point in found[number]]
        chart.line(course, kind)
        chart.marks(course, kind, shape)
    for angle, point in (found[last][0], found[last][len(found[last]) // 2], found[last][-1]):
        chart.note(point, f"{angle}°", "averaged", 0, -9)
    for name, point in singles:
        chart.marks([point], "end", "diamond", 4.5)
        chart.note(point, name, "end", 8, 4, "start")
    return figures.Figure(f"The front {JUDGES[judge]}", chart.svg())


def _front(rows: figures.Rows, number: int, prefix: str) -> list[tuple[str, Point]]:
    """Return (angle, mean over seeds of (verbosity, helpfulness)) of one round, by rising angle."""
    own = [row for row in rows if int(row["round"]) == number]
    angles = sorted({row["angle"] for row in own}, key=float)
    columns = (f"{prefix}verbosity", f"{prefix}helpfulness")

    def mean(angle: str, column: str) -> float:
        return fmean(float(row[column]) for row in own if row["angle"] == angle)

    return [(f"{float(angle):g}", (mean(angle, columns[0]), mean(angle, columns[1]))) for angle in angles]


def _baselines(evaluation: Mapping[str, Any]) -> list[tuple[str, Point]]:
    seeds = list(evaluation["seeds"].values())
    names = {"scalar": "scalar RAFT", "dpo": "DPO"}

    def mean(name: str, rating: str) -> float:
        return fmean(seed["baselines"][name][rating] for seed in seeds)

    return [(said, (mean(name, "verbosity"), mean(name, "helpfulness"))) for name, said in names.items()]


def courses(evaluation: Mapping[str, Any]) -> list[figures.Figure]:
    """Draw front gain, steerability and both hypervolumes over the rounds."""
    seeds = list(evaluation["seeds"].values())
    return [
        _course(seeds, "Front gain", lambda r: r["front_gain"]["true"], lambda r: r["front_gain"]["model"]),
        _course(seeds, "Spearman of angle and verbosity", lambda r: r["spearman"]),
        *(
            _course(seeds, f"Hypervolume, {side} words wanted", lambda r, s=side: r["hypervolume"][s]["true"])
            for side in seeds[0]["rounds"][0]["hypervolume"]
        ),
    ]


def _course(seeds: Sequence[Mapping[str, Any]], name: str, value: Any, other: Any = None) -> figures.Figure:
    """Draw one quantity by round: every seed faintly, the mean boldly; `other` is drawn in the second colour."""
    kinds = [("averaged", "circle", value)] + ([("early", "square", other)] if other else [])
    found = {kind: [[(float(r["round"]), float(of(r))) for r in seed["rounds"]] for seed in seeds] for kind, _, of in kinds}
    everything = [y for lines in found.values() for line in lines for _, y in line]
    means = {
        kind: [(same[0][0], fmean(y for _, y in same)) for same in zip(*lines, strict=True)] for kind, lines in found.items()
    }
    first, last = means["averaged"][0], means["averaged"][-1]
    said = f"From {short(first[1])} in round {first[0]:g} to {short(last[1])} in round {last[0]:g}."
    x = Axis("round", -0.15, last[0] + 0.15, whole=True)
    chart = Chart(name, said, x, Axis.around("", everything), width=PANEL["width"], height=PANEL["height"])
    for kind, shape, _ in kinds:
        for line in found[kind]:
            chart.line(line, f"{kind} faint")
        chart.line(means[kind], kind)
        chart.marks(means[kind], kind, shape, 2.6)
    return figures.Figure(name, chart.svg())


def _mean(lines: Sequence[Sequence[Point]]) -> list[Point]:
    return [(same[0][0], fmean(y for _, y in same)) for same in zip(*lines, strict=True)]


def by_angle(rows: figures.Rows) -> figures.Figure:
    """Draw the length of answers by angle, before the first round and after the last."""
    last = max(int(row["round"]) for row in rows)
    found: dict[int, list[Point]] = {}
    for number in (0, last):
        own = [row for row in rows if int(row["round"]) == number]
        angles = sorted({float(row["angle"]) for row in own})
        found[number] = [(a, fmean(float(row["length"]) for row in own if float(row["angle"]) == a)) for a in angles]
    values = [y for points in found.values() for _, y in points]
    said = f"From {short(found[last][0][1])} words at {found[last][0][0]:g} degrees to {short(found[last][-1][1])}."
    x = Axis("angle", found[last][0][0] - 2, found[last][-1][0] + 2)
    chart = Chart("Words by angle", said, x, Axis.around("", values), width=PANEL["width"], height=PANEL["height"])
    for number, kind, shape in ((0, "early", "square"), (last, "averaged", "circle")):
        chart.line(found[number], kind)
        chart.marks(found[number], kind, shape, 2.6)
    return figures.Figure("Words by angle", chart.svg())


def table(evaluation: Mapping[str, Any], judge: str) -> list[tuple[str, list[tuple[float, bool]]]]:
    """Return M[u, a] by row: the scoring angle u, then each value and whether it is the row's largest."""
    values = evaluation["table"][judge]
    rows = zip(evaluation["angles"], values, strict=True)
    return [(f"{angle:g}°", [(value, value == max(row)) for value in row]) for angle, row in rows]
