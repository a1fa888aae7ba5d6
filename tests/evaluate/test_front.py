"""Fronts and hypervolumes: known sets, properties, and a second way to compute the same area."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluate.front import compared, hypervolume, pareto

UNIT = st.integers(0, 20).map(lambda part: part / 20)
POINTS = st.lists(st.tuples(UNIT, UNIT), max_size=7)
ORIGIN = (0.0, 0.0)


def by_inclusion_and_exclusion(points, reference):
    """The area of a union of rectangles: singles, minus pairs, plus triples, ..."""
    area = 0.0
    for size in range(1, len(points) + 1):
        for chosen in combinations(points, size):
            width = max(0.0, min(x for x, _ in chosen) - reference[0])
            height = max(0.0, min(y for _, y in chosen) - reference[1])
            area -= (-1) ** size * width * height
    return area


@pytest.mark.parametrize(
    ("points", "reference", "area"),
    [
        ([], ORIGIN, 0),
        ([(1, 1)], ORIGIN, 1),
        ([(0.5, 0.5)], ORIGIN, 0.25),
        ([(1, 0.5), (0.5, 1)], ORIGIN, 0.75),
        ([(0.9, 0.2), (0.6, 0.6), (0.2, 0.9)], ORIGIN, 0.18 + 0.24 + 0.06),
        ([(1, 1)], (0.5, 0.5), 0.25),
        ([(1, 0.5), (0.2, 2)], (0.25, 0.25), 0.75 * 0.25),
    ],
)
def test_known_sets(points, reference, area):
    assert hypervolume(points, reference) == pytest.approx(area)


@given(POINTS, st.tuples(UNIT, UNIT))
def test_it_is_the_area_of_the_union(points, reference):
    assert hypervolume(points, reference) == pytest.approx(by_inclusion_and_exclusion(points, reference), abs=1e-9)


@given(POINTS, st.randoms())
def test_the_order_of_points_is_irrelevant(points, rng):
    shuffled = rng.sample(points, len(points))
    assert hypervolume(shuffled, ORIGIN) == hypervolume(points, ORIGIN)
    assert pareto(shuffled) == pareto(points)


@given(POINTS)
def test_dominated_points_and_repeated_ones_add_nothing(points):
    dominated = [(x / 2, y / 2) for x, y in points]
    assert hypervolume([*points, *dominated, *points], ORIGIN) == hypervolume(points, ORIGIN)


@given(POINTS, st.tuples(UNIT, UNIT))
def test_one_point_more_never_shrinks_it(points, point):
    assert hypervolume([*points, point], ORIGIN) >= hypervolume(points, ORIGIN) - 1e-12


@given(POINTS)
def test_a_front_holds_exactly_the_points_that_none_betters(points):
    undominated = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
    assert set(pareto(points)) == undominated
    assert len(pareto(points)) == len(undominated)


def test_fronts_of_different_sizes_are_not_compared():
    with pytest.raises(ValueError, match="early_stopping 2, averaging 1"):
        compared({"early_stopping": [(1, 0), (0, 1)], "averaging": [(1, 1)]}, ORIGIN)
    assert compared({"a": [(1, 0.5)], "b": [(0.5, 0.5)]}, ORIGIN) == {"a": 0.5, "b": 0.25}
