"""The page of the alignment-tax study: every method's front beside early stopping's, areas, learned ratios and claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from tasks.evaluate.page import figures
from tasks.evaluate.page.changes import short
from tasks.evaluate.page.frame import style, template, told_claims
from tasks.evaluate.page.svg import Axis, Chart, Point

NAMES = {
    "early_stopping": "early stopping",
    "averaging": "uniform averaging",
    "hma": "HMA, learned ratios",
    "l1": "L1 to the start",
    "l2": "L2 to the start",
    "kl": "KL penalty",
    "lora": "LoRA",
    "moving_average": "moving average",
}
ALGORITHMS = {"raft": "RAFT", "dpo": "DPO", "ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO", "none": "none"}
PANEL = {"width": 250, "height": 200}
Axes = tuple[Axis, Axis]


def name_of(method: str) -> str:
    """Return how a method is called on the page."""
    return NAMES.get(method, f"part {int(method[5:]) + 1} alone" if method.startswith("part-") else method.replace("_", " "))


def render(title: str, tradeoffs: Mapping[str, Any], rows: figures.Rows) -> str:
    """Return the page as HTML from the scores of `tradeoffs` and the rows of its fronts."""
    return template("study.html").render(
        title=title,
        style=style(),
        seeds=max(len(seeds) for seeds in tradeoffs["courses"].values()),
        algorithms=[(algorithm, ALGORITHMS[algorithm], panels(rows, algorithm)) for algorithm in tradeoffs["courses"]],
        areas=area_rows(tradeoffs["areas"]),
        ratios=[(ALGORITHMS[name], ratio_figure(name, seeds)) for name, seeds in tradeoffs["ratios"].items()],
        claims=told_claims(tradeoffs["claims"]["claims"]),
        counts=tradeoffs["claims"],
    )


def area_rows(areas: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for every method of every algorithm, the largest area of an algorithm first."""
    return [
        {"algorithm": ALGORITHMS[algorithm], "method": name_of(method), **entry}
        for algorithm, methods in areas.items()
        for method, entry in sorted(methods.items(), key=lambda item: -item[1]["mean"])
    ]


def panels(rows: figures.Rows, algorithm: str) -> list[figures.Figure]:
    """Draw every method's front over early stopping's, all on the same axes: seeds faintly, the mean over seeds boldly."""
    own = [row for row in rows if row["algorithm"] == algorithm]
    everything = [(float(row["skill"]), float(row["reward"])) for row in own]
    axes = Axis.around("mean skill", [x for x, _ in everything], high=1.0), Axis.around("reward", [y for _, y in everything])
    fronts = {method: _courses([row for row in own if row["method"] == method]) for method in _methods(own)}
    stopped = fronts.pop("early_stopping")
    return [_panel(method, points, stopped, axes) for method, points in fronts.items()]


def _methods(rows: figures.Rows) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def _courses(rows: figures.Rows) -> list[list[Point]]:
    """Return the points (skill, reward) of each seed, in the order of the file."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    return [[(float(row["skill"]), float(row["reward"])) for row in rows if row["seed"] == seed] for seed in seeds]


def _panel(method: str, courses: Sequence[list[Point]], stopped: Sequence[list[Point]], axes: Axes) -> figures.Figure:
    mean, name = _mean(courses), name_of(method)
    first, last = mean[0], mean[-1]
    said = f"{len(mean)} points from skill {short(first[0])}, reward {short(first[1])} to {short(last[0])}, {short(last[1])}."
    chart = Chart(f"{name} beside early stopping", said, axes[0], axes[1], **PANEL)
    chart.line(_mean(stopped), "early")
    chart.marks(_mean(stopped), "early", "square", 2.4)
    for points in courses:
        chart.line(points, "averaged faint")
    chart.line(mean, "averaged")
    chart.marks(mean, "averaged", "circle", 2.8)
    return figures.Figure(name[0].upper() + name[1:], chart.svg())


def _mean(courses: Sequence[list[Point]]) -> list[Point]:
    return [(fmean(x for x, _ in same), fmean(y for _, y in same)) for same in zip(*courses, strict=True)]


def ratio_figure(algorithm: str, seeds: Mapping[str, Any]) -> Markup:
    """Draw the learned ratio of each part, the input side first, for every mean: seeds faintly, their mean boldly."""
    found = {key: [seed["means"][key]["w"] for seed in seeds.values()] for key in next(iter(seeds.values()))["means"]}
    parts = len(next(iter(found.values()))[0])
    x = Axis("part, input side first", -0.2, parts - 0.8, names=tuple(str(part + 1) for part in range(parts)))
    chart = Chart(
        f"Ratios after {ALGORITHMS[algorithm]}", "w_pre of each part at every mean", x, Axis("w_pre", 0.0, 1.0), **PANEL
    )
    for key, fitted in sorted(found.items(), key=lambda item: float(item[0])):
        lines = [[(float(part), w) for part, w in enumerate(ratios)] for ratios in fitted]
        for points in lines:
            chart.line(points, "averaged faint")
        chart.line(_mean(lines), "averaged")
        chart.marks(_mean(lines), "averaged", "circle", 2.6)
        chart.note(_mean(lines)[-1], key, "averaged", 7, 4, "start")
    return chart.svg()
