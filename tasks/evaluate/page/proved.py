"""The page of theorem proving: what each prover proves by round, by family and difficulty, proofs to look at, and claims."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any
from xml.etree import ElementTree as Tree

from markupsafe import Markup

from tasks.evaluate.page import figures
from tasks.evaluate.page.changes import short
from tasks.evaluate.page.frame import style, template, told_claims
from tasks.evaluate.page.svg import Axis, Chart, drawing, mark, markup

NAMES = {
    "nothing": "the whole method",
    "words": "without words",
    "inline_comments": "comments before the proof",
    "blocks": "without block training",
    "curriculum": "without a curriculum",
}
SPLITS = {"test": "Families learned from", "heldout": "Families held out"}
PANEL = {"width": 320, "height": 230}
BAR = {"width": 150, "height": 14}


def render(title: str, proofs: Mapping[str, Any], rounds: figures.Rows) -> str:
    """Return the page as HTML from the scores of `prove-eval` and its shares by round."""
    return template("proved.html").render(
        title=title,
        style=style(),
        proofs=proofs,
        seeds=len(proofs["seeds"]),
        splits=SPLITS,
        panels=[by_round(split, rows_of(rounds, split)) for split in SPLITS],
        provers=[(NAMES[name], found) for name, found in proofs["provers"].items()],
        families=[{**row, "picture": bar(row)} for row in sorted(proofs["families"], key=lambda row: row["split"] != "test")],
        difficulty=[{**row, "picture": bar({**row, "constant": None})} for row in proofs["difficulty"]],
        claims=told_claims(proofs["claims"]["claims"]),
        counts=proofs["claims"],
    )


def rows_of(rounds: figures.Rows, split: str) -> list[Mapping[str, str]]:
    """Return the rows of one split."""
    return [row for row in rounds if row["split"] == split]


def by_round(split: str, rows: figures.Rows) -> figures.Figure:
    """Draw the share proved after each round: the whole method boldly with its seeds faintly, the others thinly."""
    last = max(int(row["round"]) for row in rows)
    courses = {name: course([row for row in rows if row["without"] == name], last) for name in NAMES}
    means = {name: [fmean(each) for each in zip(*found, strict=True)] for name, found in courses.items() if found}
    said = "; ".join(f"{NAMES[name]} {short(values[-1])} %" for name, values in means.items())
    x = Axis("round", 0.8, last + 0.2, whole=True)
    top = max(10.0, *(value for found in courses.values() for seed in found for value in seed))
    chart = Chart(SPLITS[split], f"After the last round: {said}.", x, Axis("% proved", 0.0, min(100.0, top * 1.08)), **PANEL)
    for name, values in means.items():
        points = list(enumerate(values, 1))
        if name == "nothing":
            for seed in courses[name]:
                chart.line(list(enumerate(seed, 1)), "averaged faint")
            chart.line(points, "averaged")
            chart.marks(points, "averaged", "circle", 4)
        else:
            chart.line(points, "early faint")
            chart.marks(points, "early", "square", 2.4)
    return figures.Figure(SPLITS[split], chart.svg())


def course(rows: figures.Rows, last: int) -> list[list[float]]:
    """Return the shares after rounds 1 to `last` of every seed; where a seed stopped early its last share stands on."""
    found = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        own = [float(row["percent"]) for row in rows if row["seed"] == seed]
        found.append(own + [own[-1]] * (last - len(own)))
    return found


def bar(row: Mapping[str, Any]) -> Markup:
    """Draw the share proved as a bar, the part of the first round darker, and what a constant tactic proves as a mark."""
    said = f"{short(row['proved'])} % proved, {short(row['first_round'])} % in the first round"
    root = drawing("Share proved", said, **BAR)
    Tree.SubElement(root, "line", {"class": "range", "x1": "4", "x2": "146", "y1": "7", "y2": "7"})
    for share, kind in ((row["proved"], "bar more"), (row["first_round"], "bar")):
        Tree.SubElement(root, "rect", {"class": kind, "x": "4", "y": "3", "width": f"{1.42 * share:.1f}", "height": "8"})
    if row["constant"] is not None:
        mark(root, 4 + 1.42 * row["constant"], 7, "mark end", "diamond", 3)
    return markup(root)
