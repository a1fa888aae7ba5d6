"""The page of SaySelf: reliability by model, what is stated, scores by stage and seed, what stage 2 moves, rationales, claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tasks.evaluate.page import figures
from tasks.evaluate.page.changes import short
from tasks.evaluate.page.frame import style, template, told_claims
from tasks.evaluate.page.svg import Axis, Chart, Point

NAMES = {
    "untuned": "untuned: agreement of samples",
    "bare": "stage 1 without rationales",
    "stage1": "stage 1",
    "quadratic": "SaySelf: stage 2, quadratic reward",
    "linear": "stage 2, linear reward",
}
STAGES = {"untuned": "untuned", "stage1": "stage 1", "quadratic": "SaySelf", "linear": "linear"}
METRICS = (
    ("all_accuracy", "accuracy", max),
    ("ece", "ECE", min),
    ("brier", "Brier", min),
    ("auroc", "AUROC", max),
    ("mace", "MACE", min),
    ("mean_confidence", "confidence", None),
    ("certain", "0 or 10", None),
    ("known_error", "distance", min),
    ("parse_rate", "can be read", max),
)
"""Number, what its column is called, and which of two is better; None where neither is."""
RATIOS = (("rationale_precision", "precision"), ("rationale_by_chance", "by chance"), ("rationale_recall", "recall"))
PANEL = {"width": 420, "height": 270}
LOW = {"width": 420, "height": 190}
Rows = figures.Rows


def render(title: str, tradeoffs: Mapping[str, Any], stated: Rows, courses: Rows) -> str:
    """Return the page as HTML from the scores, the rows of what was stated, and the courses of `confide-tradeoffs`."""
    models, seeds = tradeoffs["models"], tradeoffs["seeds"]
    metrics = [each for each in METRICS if any(each[0] in model for model in models.values())]
    most = max(value for name in STAGES for row in shares([r for r in stated if r["model"] == name]).values() for value in row)
    own = {name: [row for row in stated if row["model"] == name] for name in models}
    return template("confided.html").render(
        title=title,
        style=style(),
        seeds=seeds,
        reliability=[reliability(name, own[name]) for name in STAGES],
        histograms=[histogram(name, own[name], most) for name in STAGES],
        stages=[by_stage(key, heading, seeds) for key, heading, _ in METRICS[:4]],
        courses=[course(courses, reward) for reward in ("quadratic", "linear")],
        metrics=[heading for _, heading, _ in metrics],
        table=table(models, metrics),
        ratios=[heading for _, heading in RATIOS],
        faithful=table({name: models[name] for name in ("stage1", "quadratic", "linear")}, [(*each, None) for each in RATIOS]),
        claims=told_claims(tradeoffs["claims"]["claims"]),
        counts=tradeoffs["claims"],
    )


def reliability(name: str, rows: Rows) -> figures.Figure:
    """Draw the share of right answers by stated confidence, and that of the untuned model's samples which gave the answer.

    All seeds together; the larger a mark, the more questions it stands for.
    """
    found = {column: pooled(rows, column) for column in ("accuracy", "share")}
    said = ", ".join(f"{short(x)} stated and {short(y)} right" for (x, y), _ in found["accuracy"])
    chart = Chart(f"Reliability: {NAMES[name]}", said, Axis("stated confidence", 0.0, 1.0), Axis("", 0.0, 1.0), **PANEL)
    chart.line([(0.0, 0.0), (1.0, 1.0)], "zero thin")
    for column, kind, shape in (("share", "early", "square"), ("accuracy", "averaged", "circle")):
        chart.line([place for place, _ in found[column]], kind if column == "accuracy" else f"{kind} faint")
        for place, weight in found[column]:
            chart.marks([place], kind, shape, round(1.5 + 4.5 * weight**0.5, 1))
    return figures.Figure(NAMES[name][0].upper() + NAMES[name][1:], chart.svg())


def pooled(rows: Rows, column: str) -> list[tuple[Point, float]]:
    """Return (confidence, mean of `column`) of every confidence that was stated, and the share of answers that stated it."""
    total = sum(int(row["count"]) for row in rows)
    found = []
    for level in sorted({int(row["confidence"]) for row in rows}):
        mine = [(float(row[column]), int(row["count"])) for row in rows if int(row["confidence"]) == level and int(row["count"])]
        if count := sum(n for _, n in mine):
            found.append(((level / 10, sum(value * n for value, n in mine) / count), count / total))
    return found


def shares(rows: Rows) -> dict[str, list[float]]:
    """Return of every seed the share of its answers that state each of the eleven confidences."""
    found: dict[str, list[float]] = {}
    for seed in dict.fromkeys(row["seed"] for row in rows):
        counts = {int(row["confidence"]): int(row["count"]) for row in rows if row["seed"] == seed}
        found[seed] = [counts.get(level, 0) / max(1, sum(counts.values())) for level in range(11)]
    return found


def histogram(name: str, rows: Rows, most: float) -> figures.Figure:
    """Draw how often each of the eleven confidences was stated, up to `most`: a bar for the mean over seeds, a dot for each."""
    own = shares(rows)
    bars = [(float(level), fmean(seed[level] for seed in own.values())) for level in range(11)]
    said = ", ".join(f"{level:g}: {short(value)}" for level, value in bars)
    chart = Chart(f"Stated by {NAMES[name]}", said, Axis("confidence", -0.7, 10.7, whole=True), Axis("share", 0.0, most), **LOW)
    chart.bars(bars, "averaged", 0.8)
    for seed in own.values():
        chart.marks([(float(level), value) for level, value in enumerate(seed) if value], "plain faint", size=2.4)
    return figures.Figure(NAMES[name][0].upper() + NAMES[name][1:], chart.svg())


def by_stage(key: str, heading: str, seeds: Mapping[str, Any]) -> figures.Figure:
    """Draw one number from the untuned model over stage 1 to stage 2, every seed faintly, and after the linear reward apart."""
    values = [[seed["models"][name].get(key) for name in STAGES] for seed in seeds.values()]
    means = [
        fmean(there) if (there := [each for each in same if each is not None]) else None for same in zip(*values, strict=True)
    ]
    said = ", ".join(f"{name} {short(mean)}" for name, mean in zip(STAGES.values(), means, strict=True))
    places = Axis("", -0.4, len(STAGES) - 0.6, names=tuple(STAGES.values()))
    spread = Axis.around("", [v for own in values for v in own if v is not None] or [0.0, 1.0], low=0.0, high=1.0)
    chart = Chart(heading, said, places, spread, **LOW)
    for own, faint in [*((each, " faint") for each in values), (means, "")]:
        points = [(float(place), value) for place, value in enumerate(own) if value is not None]
        course, control = [point for point in points if point[0] < 3], [point for point in points if point[0] == 3]
        chart.line(course, f"averaged{faint}")
        if not faint:
            chart.marks(course, "averaged")
        chart.marks(control, f"early{faint}", "square", 2.4 if faint else 3.5)
    return figures.Figure(heading[0].upper() + heading[1:], chart.svg())


def course(rows: Rows, reward: str) -> figures.Figure:
    """Draw accuracy and mean stated confidence on the validation questions along one course of stage 2, every seed faintly."""
    own = [row for row in rows if row["reward"] == reward]
    seeds = list(dict.fromkeys(row["seed"] for row in own))
    last = max(float(row["iteration"]) for row in own)
    chart = Chart(
        f"Stage 2 by the {reward} reward",
        "Accuracy and mean stated confidence on the validation questions after every iteration.",
        Axis("iteration", 0.0, last, whole=True),
        Axis("", 0.0, 1.0),
        **LOW,
    )
    for column, scale, kind, shape in (("valid_accuracy", 1, "averaged", "circle"), ("valid_confidence", 10, "early", "square")):
        lines = [[(float(r["iteration"]), float(r[column]) / scale) for r in own if r["seed"] == seed] for seed in seeds]
        for line in lines:
            chart.line(line, f"{kind} faint")
        means = [(same[0][0], fmean(y for _, y in same)) for same in zip(*lines, strict=True)]
        chart.line(means, kind)
        chart.marks(means, kind, shape, 2.6)
    return figures.Figure(f"{reward.capitalize()} reward{told_nats(own, last)}", chart.svg())


def told_nats(rows: Rows, last: float) -> str:
    """Say how far the policy had moved before the last iteration, the mean over seeds."""
    nats = [float(row["kl"]) for row in rows if row["kl"] and float(row["iteration"]) == last - 1]
    return f": {short(fmean(nats))} nats an answer from stage 1" if nats else ""


def table(models: Mapping[str, Any], metrics: Sequence[tuple[str, str, Any]]) -> list[dict[str, Any]]:
    """Return every model's numbers as (mean, standard deviation, whether no model has a better mean), or None."""
    best = {}
    for key, _, better in metrics:
        means = [model[key]["mean"] for model in models.values() if key in model]
        best[key] = better(means) if better and means else None
    return [
        {
            "name": NAMES[name],
            "cells": [(m[k]["mean"], m[k]["sd"], m[k]["mean"] == best[k]) if k in m else None for k, _, _ in metrics],
        }
        for name, m in models.items()
    ]
