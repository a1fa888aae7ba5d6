"""The figures of the report: the front of reward against skill, what RAFT did to each skill, and how training went."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.etree import ElementTree as Tree

from markupsafe import Markup

from tasks.evaluate.page.changes import short
from tasks.evaluate.page.svg import Axis, Chart, Point, drawing, mark, markup
from tasks.runtime.params import UserError

Rows = Sequence[Mapping[str, str]]
METHODS = {"early_stopping": ("early stopping", "early", "square"), "averaging": ("averaging", "averaged", "circle")}
"""What each front is called, its class in the style sheet, and its mark."""
PANEL = {"width": 250, "height": 170}


@dataclass(frozen=True)
class Figure:
    """A drawing and what is written above it."""

    title: str
    svg: Markup


def read_curve(path: Path) -> Rows:
    """Return the rows of a stage's CSV. Raises UserError when it has none."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise UserError(f"{path}: holds no row; run the stage that makes it again")
    return rows


def front(rows: Rows, skill: str) -> Markup:
    """Draw reward against what is called `skill`: for each method every seed faintly and the mean over seeds boldly."""
    courses = {method: _by_seed([row for row in rows if row["method"] == method]) for method in METHODS}
    everything = [point for course in courses.values() for _, points in course for point in points]
    chart = Chart(
        f"Reward against {skill}",
        "One line for early stopping and one for averaging, from the model before RLHF to the one after; up and right is better.",
        Axis.around(skill, [x for x, _ in everything], high=1.0),
        Axis.around("reward", [y for _, y in everything]),
        width=420,
        height=330,
    )
    for method, course in courses.items():
        for _, points in course:
            chart.line(points, f"{METHODS[method][1]} faint")
    for method, course in courses.items():
        _, kind, shape = METHODS[method]
        strengths, means = course[0][0], _mean([points for _, points in course])
        chart.line(means, kind)
        chart.marks(means, kind, shape)
        dx, dy, anchor = (8, -5, "start") if method == "averaging" else (-8, 12, "end")
        for strength, point in list(zip(strengths, means, strict=True))[1:-1]:
            chart.note(point, f"{strength:g}", kind, dx, dy, anchor)
    ends = _mean([points for _, points in courses["averaging"]])
    chart.marks([ends[0], ends[-1]], "end", "diamond", 4.5)
    chart.note(ends[0], "before RLHF", "end", dx=-10, dy=4, anchor="end")
    chart.note(ends[-1], "after RLHF", "end", dy=-11)
    return chart.svg()


def _by_seed(rows: Rows) -> list[tuple[list[float], list[Point]]]:
    """Return strengths and points (skill, reward) of each seed, in the order of the file."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    own = [[row for row in rows if row["seed"] == seed] for seed in seeds]
    return [([float(r["strength"]) for r in each], [(float(r["skill"]), float(r["reward"])) for r in each]) for each in own]


def _mean(courses: Sequence[Sequence[Point]]) -> list[Point]:
    return [(fmean(x for x, _ in same), fmean(y for _, y in same)) for same in zip(*courses, strict=True)]


def along_raft(evaluation: Mapping[str, Any], w_pre: float) -> list[Figure]:
    """Draw reward, each skill and perplexity along the iterations, every seed faintly, beside the average with `w_pre`."""
    seeds = list(evaluation["seeds"].values())
    skills = list(seeds[0]["sft"]["skills"])
    found = [_course(seeds, "reward", lambda row: row["reward"], w_pre)]
    shared = [row["skills"][skill] for seed in seeds for row in _models(seed, w_pre) for skill in skills]
    found += [_course(seeds, skill.replace("_", " "), lambda row, s=skill: row["skills"][s], w_pre, shared) for skill in skills]
    return [*found, _course(seeds, "perplexity", lambda row: row["perplexity"], w_pre)]


def _models(seed: Mapping[str, Any], w_pre: float) -> list[Mapping[str, Any]]:
    return [seed["sft"], *seed["raft"], next(row for row in seed["average"] if row["w_pre"] == w_pre)]


def _course(seeds: Sequence[Mapping[str, Any]], name: str, value: Any, w_pre: float, shared: Sequence[float] = ()) -> Figure:
    """Draw one quantity; panels that share `shared` have the same range, so that they can be compared."""
    values = [[value(row) for row in _models(seed, w_pre)] for seed in seeds]
    numbers = [0, *(row["iteration"] for row in seeds[0]["raft"])]
    means = [fmean(same) for same in zip(*values, strict=True)]
    last = numbers[-1] + 0.09 * numbers[-1] + 0.3
    span = list(shared) or [each for seed in values for each in seed]
    chart = Chart(
        f"{name} along RAFT",
        f"From {short(means[0])} before RLHF to {short(means[-2])} after; {short(means[-1])} averaged with w_pre {w_pre:g}.",
        Axis("iteration", -0.15, last + 0.15, whole=True),
        Axis.around("", span, low=0.0 if min(span) >= 0 else None, high=1.0 if shared else None),
        **PANEL,
    )
    for seed in values:
        chart.line(list(zip(numbers, seed[:-1], strict=True)), "early faint")
    chart.line(list(zip(numbers, means[:-1], strict=True)), "early")
    chart.marks(list(zip(numbers, means[:-1], strict=True)), "early", "square", 2.6)
    chart.marks([(last, seed[-1]) for seed in values], "averaged faint", size=2.6)
    chart.marks([(last, means[-1])], "averaged", size=3.8)
    return Figure(name.capitalize(), chart.svg())


def learning(curves: Mapping[str, Rows]) -> list[Figure]:
    """Draw the loss of each training stage over its steps, the reward model's accuracy, and the reward RAFT's samples get."""
    return list(_learning(curves))


def _learning(curves: Mapping[str, Rows]) -> Iterator[Figure]:
    for stage, rows in curves.items():
        if stage == "raft":
            yield _sampled(rows)
            continue
        for column in ("loss", "accuracy"):
            if column in rows[0]:
                points = [(float(row["step"]), float(row[column])) for row in rows]
                title = f"{stage}: {column}"
                said = f"From {short(points[0][1])} at step {points[0][0]:g} to {short(points[-1][1])} at step {points[-1][0]:g}."
                x, y = Axis("step", 0, points[-1][0], whole=True), Axis.around("", [value for _, value in points], low=0.0)
                chart = Chart(title, said, x, y, **PANEL)
                chart.line(points, "plain")
                yield Figure(title, chart.svg())


def _sampled(rows: Rows) -> Figure:
    """Draw the reward model's mean score of all samples of an iteration, and of those it learned from."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    found = {}
    for column in ("reward", "kept_reward"):
        own = [[(float(r["iteration"]), float(r[column])) for r in rows if r["seed"] == seed] for seed in seeds]
        found[column] = (own, _mean(own))
    values = [y for own, _ in found.values() for points in own for _, y in points]
    means = found["reward"][1]
    said = f"Mean score of the samples: from {short(means[0][1])} to {short(means[-1][1])}; the kept ones lie above."
    last = means[-1][0]
    chart = Chart(
        "raft: score of samples",
        said,
        Axis("iteration", 1 - 0.04 * last, last * 1.04, whole=True),
        Axis.around("", values),
        **PANEL,
    )
    for column, kind, shape in (("reward", "early", "square"), ("kept_reward", "plain", "circle")):
        own, means = found[column]
        for points in own:
            chart.line(points, f"{kind} faint")
        chart.line(means, kind)
        chart.marks(means, kind, shape, 2.6)
    return Figure("raft: score of samples", chart.svg())


def recall(scores: Mapping[str, float]) -> Figure | None:
    """Draw how often the base model recalls a fact against how often it was told; None where a stage did not measure it.

    `scores` are a stage's numbers by name, those meant here `recall_by_exposure.N` for facts told N times.
    """
    found = {int(name.partition(".")[2]): value for name, value in scores.items() if name.startswith("recall_by_exposure.")}
    if not found:
        return None
    times = sorted(found)
    points = [(float(place), found[told]) for place, told in enumerate(times)]
    said = "; ".join(f"told {told} times: {short(found[told])}" for told in times)
    x = Axis("times told", -0.3, len(times) - 0.7, names=tuple(map(str, times)))
    chart = Chart("Recall of facts by exposure", said, x, Axis("", 0.0, 1.0), **PANEL)
    chart.line(points, "plain")
    chart.marks(points, "plain", size=2.8)
    return Figure("base: recall of facts", chart.svg())


def bin_point(row: Mapping[str, str]) -> Point:
    """Return (confidence, accuracy) of a bin of a reliability diagram."""
    return float(row["confidence"]), float(row["accuracy"])


def pooled(rows: Rows) -> list[tuple[Point, float]]:
    """Return the mean place of every bin over the questions of all seeds, and the share of questions that it holds."""
    total = sum(int(row["count"]) for row in rows)
    found = []
    for number in sorted({int(row["bin"]) for row in rows}):
        own = [(bin_point(row), int(row["count"])) for row in rows if int(row["bin"]) == number]
        count = sum(n for _, n in own)
        x, y = (sum(place[axis] * n for place, n in own) / count for axis in (0, 1))
        found.append(((x, y), count / total))
    return found


def interval(low: float | None, mean: float, high: float | None) -> Markup:
    """Draw a mean with its interval beside zero, on a scale of its own."""
    ends = [value for value in (low, mean, high, 0.0) if value is not None]
    reach = max(map(abs, ends)) or 1.0
    root = drawing("Effect beside zero", f"{short(mean)}, interval {short(low)} to {short(high)}", 120, 16)

    def across(value: float) -> float:
        return 60 + 54 * value / reach

    Tree.SubElement(root, "line", {"class": "range", "x1": "2", "x2": "118", "y1": "8", "y2": "8"})
    Tree.SubElement(root, "line", {"class": "zero", "x1": "60", "x2": "60", "y1": "0", "y2": "16"})
    if low is not None and high is not None:
        place = {"x1": f"{across(low):.1f}", "x2": f"{across(high):.1f}", "y1": "8", "y2": "8"}
        Tree.SubElement(root, "line", {"class": "reach", **place})
    mark(root, across(mean), 8, "mark end", "circle", 3.2)
    return markup(root)
