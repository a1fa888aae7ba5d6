"""The page of the whole chain: one table of what every step did, refusals by exposure, reliability of every step, and claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tasks.evaluate.page import figures
from tasks.evaluate.page.changes import short
from tasks.evaluate.page.frame import style, template, told_claims
from tasks.evaluate.page.svg import Axis, Chart, Point

NAMES = {
    "aligned": ("Aligned", "RAFT, averaged back"),
    "refusing": ("Refusing", "R-Tuning"),
    "stating": ("Stating", "SaySelf, stage 1"),
    "truthful": ("Truthful", "SaySelf, stage 2"),
    "student": ("Student", "FIRST, half as deep"),
}
"""What a step is called, and what made it."""
METRICS = (
    ("parameters", "size, M"),
    ("accuracy", "accuracy"),
    ("accuracy_on_answered", "on answered"),
    ("refusal_never_told", "refuses unseen"),
    ("refusal_known", "refuses known"),
    ("ece", "ECE"),
    ("brier", "Brier"),
    ("reward", "true reward"),
)
"""Number, and what its column is called."""
STYLES = {"refusing": ("early", "square"), "truthful": ("averaged", "circle"), "student": ("plain", "diamond")}
"""Steps whose refusals are drawn, each with its class in the style sheet and its mark."""
SMALL = {"width": 250, "height": 230}


def render(title: str, tradeoffs: Mapping[str, Any], refusals: figures.Rows, reliability: figures.Rows) -> str:
    """Return the page as HTML from the scores of `honest-tradeoffs` and the rows of its two curves."""
    steps, seeds = tradeoffs["steps"], tradeoffs["seeds"]
    return template("chained.html").render(
        title=title,
        style=style(),
        seeds=len(seeds),
        w_pre=tradeoffs["w_pre"],
        questions=next(iter(seeds.values()))["questions"],
        known=fmean(seed["known"] for seed in seeds.values()),
        metrics=[heading for _, heading in METRICS],
        table=table(steps),
        steps=steps,
        share=steps["student"]["parameters"]["mean"] / steps["truthful"]["parameters"]["mean"],
        refusal=by_exposure(refusals),
        drawn=[(STYLES[step][0], NAMES[step][0].lower()) for step in STYLES],
        panels=[diagram(step, [row for row in reliability if row["step"] == step]) for step in steps],
        claims=told_claims(tradeoffs["claims"]["claims"]),
        counts=tradeoffs["claims"],
    )


def table(steps: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every step's numbers as (mean, standard deviation), either None where there is none; sizes in millions."""
    rows = []
    for step, found in steps.items():
        size = (found["parameters"]["mean"] / 1e6, None)
        cells = [size, *((found[key]["mean"], found[key]["sd"]) for key, _ in METRICS[1:])]
        rows.append({"name": NAMES[step][0], "by": NAMES[step][1], "cells": cells})
    return rows


def by_exposure(rows: figures.Rows) -> figures.Figure:
    """Draw the refusal rate by how often pretraining stated a fact: every seed faintly, the mean boldly."""
    exposures = sorted({int(row["exposure"]) for row in rows})
    place = {exposure: float(number) for number, exposure in enumerate(exposures)}
    means = {step: _mean_line([row for row in rows if row["step"] == step], place) for step in STYLES}
    ends = {NAMES[step][0]: (short(line[0][1]), short(line[-1][1])) for step, line in means.items()}
    said = "; ".join(f"{name}: {first} never told, {last} told most" for name, (first, last) in ends.items())
    names = tuple(map(str, exposures))
    x = Axis("times that pretraining stated the fact", -0.2, len(exposures) - 0.8, names=names)
    chart = Chart("Refusal by exposure", said, x, Axis("refused", 0.0, 1.0), width=520, height=280)
    for step, (kind, _) in STYLES.items():
        for seed in dict.fromkeys(row["seed"] for row in rows):
            own = [row for row in rows if (row["step"], row["seed"]) == (step, seed)]
            chart.line(_mean_line(own, place), f"{kind} faint")
    for step, (kind, shape) in STYLES.items():
        chart.line(means[step], kind)
        chart.marks(means[step], kind, shape)
    return figures.Figure("Refusal by exposure", chart.svg())


def _mean_line(rows: figures.Rows, place: Mapping[int, float]) -> list[Point]:
    """Return the mean refusal rate at every exposure."""
    rates = {exposure: [float(row["refusal"]) for row in rows if int(row["exposure"]) == exposure] for exposure in place}
    return [(place[exposure], fmean(values)) for exposure, values in rates.items() if values]


def diagram(step: str, rows: figures.Rows) -> figures.Figure:
    """Draw accuracy by confidence of one step over all seeds; the larger a mark, the more answers its bin holds."""
    found = pooled(rows)
    said = ", ".join(f"{short(x)} sure and {short(y)} right" for (x, y), _ in found) or "no answers"
    chart = Chart(f"Reliability: {NAMES[step][0]}", said, Axis("confidence", 0.0, 1.0), Axis("accuracy", 0.0, 1.0), **SMALL)
    chart.line([(0.0, 0.0), (1.0, 1.0)], "zero thin")
    chart.line([point for point, _ in found], "averaged")
    for point, share in found:
        chart.marks([point], "averaged", "circle", round(1.5 + 4.5 * share**0.5, 1))
    return figures.Figure(f"{NAMES[step][0]}: {'its own words' if step in ('aligned', 'refusing') else 'stated'}", chart.svg())


def pooled(rows: Sequence[Mapping[str, str]]) -> list[tuple[Point, float]]:
    """Return the mean place of every bin that holds an answer, and the share of all answers that it holds."""
    counts = [(int(row["bin"]), int(row["count"]), row) for row in rows if int(row["count"])]
    total = sum(count for _, count, _ in counts)
    found = []
    for number in sorted({bin_ for bin_, _, _ in counts}):
        own = [(count, float(row["confidence"]), float(row["accuracy"])) for bin_, count, row in counts if bin_ == number]
        whole = sum(count for count, _, _ in own)
        x, y = (sum(one[0] * one[axis] for one in own) / whole for axis in (1, 2))
        found.append(((x, y), whole / total))
    return found
