"""Line charts as SVG that takes its colours from the page's style sheet, so that they are right in light and dark.

Written as elements, not as text: whatever a label holds, it stays a label. Every chart has a title and a description for
those who hear it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Tree

from markupsafe import Markup

Point = tuple[float, float]
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 12, 34
"""Margins in units of the drawing."""


@dataclass(frozen=True)
class Axis:
    """One axis: what it shows and over which range."""

    label: str
    low: float
    high: float
    whole: bool = False
    """Whether only whole numbers make sense, as for iterations."""
    names: tuple[str, ...] = ()
    """What stands at 0, 1, 2 ... where those are places and not numbers."""

    @classmethod
    def around(cls, label: str, values: Sequence[float], low: float | None = None, high: float | None = None) -> Axis:
        """Return an axis with a little room around `values`, but never beyond `low` and `high` unless a value is."""
        least, most = min(values), max(values)
        room = 0.07 * (most - least) or 0.05 * abs(most) or 0.5
        start = least - room if low is None else min(least, max(low, least - room))
        stop = most + room if high is None else max(most, min(high, most + room))
        return cls(label, start, stop if stop > start else start + 2 * room)

    def ticks(self, count: int) -> list[float]:
        """Return about `count` round numbers within the range, or all places that have a name."""
        if self.names:
            return [float(place) for place in range(len(self.names))]
        rough = max((self.high - self.low) / count, float(self.whole))
        power = 10.0 ** math.floor(math.log10(rough))
        sizes = (1, 2, 5, 10) if self.whole else (1, 2, 2.5, 5, 10)
        step = next(size * power for size in sizes if size * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]


class Chart:
    """A chart in its own coordinates; series are told apart by the style sheet's classes."""

    def __init__(self, title: str, description: str, x: Axis, y: Axis, width: int = 420, height: int = 300) -> None:
        """Draw the empty frame: grid, ticks and axis labels. `title` and `description` say what there is to see."""
        self.x, self.y, self.width, self.height = x, y, width, height
        self.root = drawing(title, description, width, height)
        grid = Tree.SubElement(self.root, "g", {"class": "axes", "aria-hidden": "true"})
        self._line(grid, (x.low, y.low), (x.high, y.low), "base")
        for tick in y.ticks(height // 45):
            self._line(grid, (x.low, tick), (x.high, tick), "grid")
            text(grid, LEFT - 6, self.at((x.low, tick))[1] + 3.5, _tick(tick), "tick", "end")
        for tick in x.ticks(width // 60):
            across = self.at((tick, y.low))[0]
            text(grid, across, height - BOTTOM + 15, x.names[int(tick)] if x.names else _tick(tick), "tick", "middle")
        text(grid, (LEFT + width - RIGHT) / 2, height - 4, x.label, "label", "middle")
        text(grid, 4, TOP - 2, y.label, "label", "start")

    def at(self, point: Point) -> Point:
        """Return where a point of the data lies in the drawing."""
        across = (point[0] - self.x.low) / (self.x.high - self.x.low)
        up = (point[1] - self.y.low) / (self.y.high - self.y.low)
        return LEFT + across * (self.width - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM - 6)

    def line(self, points: Sequence[Point], kind: str) -> None:
        """Draw a line through `points`, styled as class `kind`."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.at, points))
        Tree.SubElement(self.root, "polyline", {"class": f"line {kind}", "points": places})

    def marks(self, points: Sequence[Point], kind: str, shape: str = "circle", size: float = 3.5) -> None:
        """Mark points with a `circle`, `square` or `diamond`, so that series differ by more than their colour."""
        for point in points:
            mark(self.root, *self.at(point), f"mark {kind}", shape, size)

    def bars(self, points: Sequence[Point], kind: str, width: float) -> None:
        """Draw a bar of `width`, in units of x, from the foot of the chart up to each point."""
        for x, y in points:
            (left, top), (right, foot) = self.at((x - width / 2, y)), self.at((x + width / 2, self.y.low))
            size = {"width": f"{right - left:.1f}", "height": f"{max(0.0, foot - top):.1f}"}
            Tree.SubElement(self.root, "rect", {"class": f"bar {kind}", "x": f"{left:.1f}", "y": f"{top:.1f}", **size})

    def note(self, point: Point, words: str, kind: str, dx: float = 0, dy: float = 0, anchor: str = "middle") -> None:
        """Write `words` beside a point."""
        x, y = self.at(point)
        text(self.root, x + dx, y + dy, words, f"note {kind}", anchor)

    def svg(self) -> Markup:
        """Return the drawing, to stand in a page."""
        return markup(self.root)

    def _line(self, parent: Tree.Element, start: Point, stop: Point, kind: str) -> None:
        (x1, y1), (x2, y2) = self.at(start), self.at(stop)
        ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
        Tree.SubElement(parent, "line", {"class": kind, **ends})


def drawing(title: str, description: str, width: float, height: float) -> Tree.Element:
    """Return an empty drawing that scales with the page."""
    root = Tree.Element("svg", {"viewBox": f"0 0 {width} {height}", "role": "img", "class": "drawing"})
    Tree.SubElement(root, "title").text = title
    Tree.SubElement(root, "desc").text = description
    return root


def text(parent: Tree.Element, x: float, y: float, words: str, kind: str, anchor: str = "start") -> None:
    """Write words at a place."""
    Tree.SubElement(parent, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": kind, "text-anchor": anchor}).text = words


def mark(parent: Tree.Element, x: float, y: float, kind: str, shape: str, size: float) -> None:
    """Draw a circle, square or diamond around a place."""
    if shape == "circle":
        Tree.SubElement(parent, "circle", {"class": kind, "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{size}"})
        return
    reach = size * (1.3 if shape == "diamond" else 0.9)
    corners = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)]
    if shape == "square":
        corners = [(x - reach, y - reach), (x + reach, y - reach), (x + reach, y + reach), (x - reach, y + reach)]
    Tree.SubElement(parent, "polygon", {"class": kind, "points": " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)})


def markup(root: Tree.Element) -> Markup:
    """Return an element as markup that is safe as it is: ElementTree has escaped every text."""
    return Markup(Tree.tostring(root, encoding="unicode"))


def _tick(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}".replace("-", "−")
