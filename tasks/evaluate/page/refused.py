"""The page of R-Tuning: whom each system refuses, what its answers are worth, if its confidence can be trusted, and claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from tasks.evaluate.page import figures
from tasks.evaluate.page.changes import short
from tasks.evaluate.page.frame import style, template, told_claims
from tasks.evaluate.page.svg import Axis, Chart, Point

NAMES = {
    "pretrain_t": "untuned",
    "pretrain_w": "untuned, where R-Tuning answers",
    "pretrain_w_r": "untuned, where R-Tuning-R answers",
    "vanilla": "Vanilla",
    "vanilla_c": "Vanilla-C",
    "vanilla_u": "Vanilla-U",
    "r_tuning": "R-Tuning",
    "r_tuning_r": "R-Tuning-R",
    "r_tuning_u": "R-Tuning-U",
}
REFUSING = ("r_tuning_r", "r_tuning", "r_tuning_u")
TRUSTED = ("pretrain_t", "vanilla", "vanilla_c", "vanilla_u", "r_tuning", "r_tuning_u")
"""Whose reliability is drawn: before tuning, after tuning on answers, and after tuning on verdicts."""
DRAWN = {"vanilla": "early", "r_tuning": "averaged", "r_tuning_u": "plain"}
"""Whose risk is drawn, by class of the style sheet."""
SETS = {"in": "relations of training", "out": "the relation left out"}
KINDS = {"in": "in domain", "out": "out of domain", "unheard name": "unheard name", "false premise": "false premise"}
METRICS = (
    ("ap", "AP", max),
    ("accuracy", "accuracy", max),
    ("answer_rate", "answers", None),
    ("accuracy_on_willing", "right of these", max),
    ("auroc_answer", "AUROC, answer", max),
    ("auroc_sure", "AUROC, verdict", max),
    ("aurc", "AURC", min),
    ("ece", "ECE", min),
)
"""Number, what its column is called, and which of two systems' is better, if either."""
PARTIAL = {"pretrain_w": ("answer_rate", "accuracy_on_willing"), "pretrain_w_r": ("answer_rate", "accuracy_on_willing")}
"""Systems of which only some numbers are their own: for the rest they are the untuned model once more."""
PANEL = {"width": 250, "height": 200}
SQUARE = {"width": 250, "height": 230}
WIDE = {"width": 420, "height": 300}


class Curves(NamedTuple):
    """Rows of the study's curves, a row for each seed."""

    refusals: figures.Rows
    coverage: figures.Rows
    reliability: figures.Rows


def render(title: str, tradeoffs: Mapping[str, Any], curves: Curves) -> str:
    """Return the page as HTML from the scores of `refuse-tradeoffs` and its curves."""
    systems = tradeoffs["systems"]
    sets = [name for name in SETS if name in systems["vanilla"]["sets"]]
    return template("refused.html").render(
        title=title,
        style=style(),
        seeds=len(tradeoffs["seeds"]),
        suitable=sum(seed["world"]["suitable"] for seed in tradeoffs["seeds"].values()),
        refusals=[by_exposure(name, [row for row in curves.refusals if row["system"] == name]) for name in REFUSING],
        kinds=list(KINDS.values()),
        refused=refused(tradeoffs),
        metrics=[heading for _, heading, _ in METRICS],
        tables=[(SETS[name], table(systems, name)) for name in sets],
        coverage=[coverage(name, [row for row in curves.coverage if row["set"] == name]) for name in sets],
        reliability=[
            reliability(name, [row for row in curves.reliability if (row["set"], row["system"]) == ("in", name)])
            for name in TRUSTED
        ],
        worlds=[(seed, world(found["world"])) for seed, found in tradeoffs["seeds"].items()],
        claims=told_claims(tradeoffs["claims"]["claims"]),
        counts=tradeoffs["claims"],
    )


def by_exposure(name: str, rows: figures.Rows) -> figures.Figure:
    """Draw how often a system refuses a fact told so many times, seeds faintly, beside how often the untuned model is wrong."""
    times = sorted({int(row["exposure"]) for row in rows})
    courses = {column: seeds_of(rows, column, times) for column in ("wrong", "refusal")}
    means = {column: mean(list(own)) for column, own in courses.items()}
    said = "; ".join(f"told {told} times: {short(y)}" for told, (_, y) in zip(times, means["refusal"], strict=True))
    x = Axis("times told", -0.3, len(times) - 0.7, names=tuple(map(str, times)))
    chart = Chart(f"Refusal by exposure: {NAMES[name]}", said, x, Axis("", 0.0, 1.0), **PANEL)
    for points in courses["refusal"]:
        chart.line(points, "averaged faint")
    for column, kind, shape in (("wrong", "early", "square"), ("refusal", "averaged", "circle")):
        chart.line(means[column], kind)
        chart.marks(means[column], kind, shape, 2.8)
    return figures.Figure(NAMES[name], chart.svg())


def seeds_of(rows: figures.Rows, column: str, times: Sequence[int]) -> list[list[Point]]:
    """Return the course of every seed over the places of `times`."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    own = [{int(row["exposure"]): float(row[column]) for row in rows if row["seed"] == seed} for seed in seeds]
    return [[(float(place), each[told]) for place, told in enumerate(times)] for each in own]


def mean(courses: Sequence[Sequence[Point]]) -> list[Point]:
    """Return the mean course of courses over the same places."""
    return [(fmean(x for x, _ in same), fmean(y for _, y in same)) for same in zip(*courses, strict=True)]


def refused(tradeoffs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the refusal rate of every refusing system on every kind of question, each beside Vanilla made as reticent."""
    own = {name: tradeoffs["systems"][name]["refusal_by_set"] for name in ("vanilla", *REFUSING)}
    found = [{"name": NAMES["vanilla"], "cells": cells(own["vanilla"])}]
    for name in REFUSING:
        found.append({"name": NAMES[name], "cells": cells(own[name])})
        rival = tradeoffs["compared"]["refusal_matched"][name]
        found.append({"name": f"Vanilla, as reticent as {NAMES[name]}", "cells": cells(rival)})
    return found


def cells(rates: Mapping[str, Any]) -> list[tuple[float | None, float | None]]:
    """Return mean and standard deviation over seeds for every kind of question."""
    return [(rates[kind]["mean"], rates[kind]["sd"]) for kind in KINDS]


def table(systems: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Return every system's numbers on a set as (mean, standard deviation, whether none has a better mean)."""
    own = {name: numbers_of(name, systems[name]["sets"][where]) for name in NAMES}
    best = {}
    for key, _, better in METRICS:
        means = [numbers[key]["mean"] for numbers in own.values() if numbers[key]["mean"] is not None]
        best[key] = better(means) if better and means else None
    return [
        {"name": NAMES[name], "cells": [told(numbers[key], best[key]) for key, _, _ in METRICS]} for name, numbers in own.items()
    ]


def numbers_of(name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a system that are its own, and nothing for the others."""
    nothing = {"mean": None, "sd": None}
    return {key: number if key in PARTIAL.get(name, numbers) else nothing for key, number in numbers.items()}


def told(number: Mapping[str, Any], best: float | None) -> tuple[float | None, float | None, bool]:
    """Return mean and standard deviation of a number, and whether its mean is the best."""
    return number["mean"], number["sd"], best is not None and number["mean"] == best


def coverage(where: str, rows: figures.Rows) -> figures.Figure:
    """Draw the share of wrong answers among the most confident ones against how many those are; seeds faintly."""
    courses = {name: risks([row for row in rows if row["system"] == name]) for name in DRAWN}
    said = "; ".join(f"{NAMES[name]}: {short(fmean(own[-1][1] for own in each))} of all" for name, each in courses.items())
    chart = Chart(
        f"Risk by coverage: {SETS[where]}", said, Axis("share answered", 0.0, 1.0), Axis("share wrong", 0.0, 1.0), **WIDE
    )
    for name, each in courses.items():
        for points in each:
            chart.line(points, f"{DRAWN[name]} faint")
    for name, each in courses.items():
        chart.line(mean(each), DRAWN[name])
    return figures.Figure(SETS[where][0].upper() + SETS[where][1:], chart.svg())


def risks(rows: figures.Rows) -> list[list[Point]]:
    """Return the risk-coverage curve of every seed."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    return [[(float(row["coverage"]), float(row["risk"])) for row in rows if row["seed"] == seed] for seed in seeds]


def reliability(name: str, rows: figures.Rows) -> figures.Figure:
    """Draw how often a system is right where it is this sure, pooled over seeds; the larger a mark, the more answers it holds."""
    found = figures.pooled(rows)
    said = ", ".join(f"{short(x)} sure and {short(y)} right" for (x, y), _ in found)
    chart = Chart(f"Reliability: {NAMES[name]}", said, Axis("confidence", 0.0, 1.0), Axis("share right", 0.0, 1.0), **SQUARE)
    chart.line([(0.0, 0.0), (1.0, 1.0)], "zero thin")
    kind = "averaged" if name.startswith("r_") else "early"
    for seed in dict.fromkeys(row["seed"] for row in rows):
        chart.line([figures.bin_point(row) for row in rows if row["seed"] == seed], f"{kind} faint")
    chart.line([place for place, _ in found], kind)
    for place, share in found:
        chart.marks([place], kind, "circle", round(1.5 + 4.5 * share**0.5, 1))
    return figures.Figure(NAMES[name][0].upper() + NAMES[name][1:], chart.svg())


def world(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of a seed's world."""
    right = {int(times): share for times, share in found["accuracy_by_exposure"].items()}
    return {
        "d0_share": found["d0_share"],
        "probe_auroc": found["probe_auroc"],
        "suitable": found["suitable"],
        "entropy_d0": found["entropy_d0"],
        "entropy_d1": found["entropy_d1"],
        "least": right[min(right)],
        "most": right[max(right)],
        "often": max(right),
    }
