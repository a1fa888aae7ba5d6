"""The page of FIRST distillation: reliability of every student, quality and cost by target, what was recalibrated, and claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from tasks.evaluate.page import figures
from tasks.evaluate.page.changes import short
from tasks.evaluate.page.frame import style, template, told_claims
from tasks.evaluate.page.svg import Axis, Chart, drawing, mark, markup, text

NAMES = {
    "base": "the student before",
    "teacher": "the teacher",
    "hard": "fine-tuned on answers",
    "renormalised": "raw top 5",
    "rest": "top 5 and the rest",
    "full": "whole vocabulary",
    "temperature": "top 5, temperature",
    "smoothing": "top 5, smoothed",
    "trustworthy": "FIRST",
}
METRICS = (
    ("accuracy", "accuracy", max),
    ("ece", "ECE", min),
    ("scaled_ece", "ECE, rescaled", min),
    ("confidence_error", "distance", min),
    ("acc_minus_ece", "accuracy − ECE", max),
    ("brier", "Brier", min),
    ("nll", "NLL", min),
)
"""Number, what its column is called, and which of two students' is better."""
PANEL = {"width": 250, "height": 230}
STRIP = {"width": 170, "height": 16}


def render(title: str, tradeoffs: Mapping[str, Any], rows: figures.Rows) -> str:
    """Return the page as HTML from the scores of `distill-tradeoffs` and the rows of its reliability diagrams."""
    models = tradeoffs["models"]
    return template("distilled.html").render(
        title=title,
        style=style(),
        seeds=len(tradeoffs["seeds"]),
        models=models,
        panels=[reliability(name, [row for row in rows if row["model"] == name]) for name in models],
        metrics=[heading for _, heading, _ in METRICS],
        table=table(models),
        costs=costs(tradeoffs),
        recalibrations=[(seed, found["recalibration"]) for seed, found in tradeoffs["seeds"].items()],
        claims=told_claims(tradeoffs["claims"]["claims"]),
        counts=tradeoffs["claims"],
    )


def reliability(name: str, rows: figures.Rows) -> figures.Figure:
    """Draw accuracy by confidence of one model: as it is, and at the temperature of its validation answers; seeds faintly.

    The larger a mark, the more questions its bin holds.
    """
    found = {scaled: figures.pooled([row for row in rows if row["scaled"] == scaled]) for scaled in "01"}
    said = ", ".join(f"{short(x)} sure and {short(y)} right" for (x, y), _ in found["0"])
    chart = Chart(f"Reliability: {NAMES[name]}", said, Axis("confidence", 0.0, 1.0), Axis("accuracy", 0.0, 1.0), **PANEL)
    chart.line([(0.0, 0.0), (1.0, 1.0)], "zero thin")
    for seed in dict.fromkeys(row["seed"] for row in rows):
        own = [row for row in rows if (row["seed"], row["scaled"]) == (seed, "0")]
        chart.line([figures.bin_point(row) for row in own], "averaged faint")
    for scaled, kind, shape in (("1", "early", "square"), ("0", "averaged", "circle")):
        chart.line([place for place, _ in found[scaled]], kind)
        for place, share in found[scaled]:
            chart.marks([place], kind, shape, round(1.5 + 4.5 * share**0.5, 1))
    heading = NAMES[name]
    return figures.Figure(heading[0].upper() + heading[1:], chart.svg())


def table(models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every model's numbers as (mean, standard deviation, whether no student has a better mean)."""
    students = [model for name, model in models.items() if name not in ("base", "teacher")]
    best = {key: better(student[key]["mean"] for student in students) for key, _, better in METRICS}
    return [
        {
            "name": NAMES[name],
            "cells": [(m[key]["mean"], m[key]["sd"], m in students and m[key]["mean"] == best[key]) for key, _, _ in METRICS],
        }
        for name, m in models.items()
    ]


def costs(tradeoffs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what every target costs beside its ECE in every seed, the least mean ECE first."""
    seeds = list(tradeoffs["seeds"].values())
    values = {target: [seed["models"][target]["ece"] for seed in seeds] for target in tradeoffs["costs"]}
    most = max(value for each in values.values() for value in each)
    order = sorted(values, key=lambda target: fmean(values[target]))
    return [
        {"name": NAMES[target], **tradeoffs["costs"][target], "ece": fmean(values[target]), "strip": strip(values[target], most)}
        for target in order
    ]


def strip(values: Sequence[float], most: float) -> Markup:
    """Draw one number of every seed as a faint dot and their mean as a bold one, from 0 at the left to `most`."""
    said = f"mean {short(fmean(values))}, from {short(min(values))} to {short(max(values))}"
    root = drawing("ECE of every seed", said, **STRIP)
    room = STRIP["width"] - 16
    text(root, 0, 12, "0", "tick")
    for value in values:
        mark(root, 12 + room * value / most, 8, "mark averaged faint", "circle", 3)
    mark(root, 12 + room * fmean(values) / most, 8, "mark averaged", "circle", 4)
    return markup(root)
