"""Fronts of two things to maximise, and the area they dominate: how two ways of trading reward for skill are compared.

More points alone enlarge the area, so two fronts are only compared when they have equally many; and the point they are
measured from is fixed before any run.
"""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]
"""(x, y), both to be maximised."""


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other one equals or betters in both directions, each once, by falling x (so by rising y)."""
    front: list[Point] = []
    for point in sorted(points, reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Return the area that `points` dominate above `reference` (Zitzler and Thiele 1998); a point not above it adds nothing."""
    area, floor = 0.0, reference[1]
    for x, y in pareto([point for point in points if point[0] > reference[0] and point[1] > reference[1]]):
        area += (x - reference[0]) * (y - floor)
        floor = y
    return area


def compared(fronts: dict[str, Sequence[Point]], reference: Point) -> dict[str, float]:
    """Return the hypervolume of each front by name. Raises ValueError when they do not have equally many points."""
    counts = {name: len(points) for name, points in fronts.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"fronts of different sizes cannot be compared, more points dominate more: {told}")
    return {name: hypervolume(points, reference) for name, points in fronts.items()}
