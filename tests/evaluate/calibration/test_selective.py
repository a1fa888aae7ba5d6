"""Risk and coverage: ties as the mean over their orders, closed forms at the ends, nothing answered is no accuracy."""

from itertools import pairwise, permutations
from math import isnan, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluate.calibration.selective import (
    accuracy_at_coverage,
    accuracy_on_answered,
    aurc,
    excess_aurc,
    refusal_rate,
    risk_coverage,
    risk_coverage_rows,
)
from tests.evaluate.calibration.answers import random_answers, samples


def slow_risk(score, correct):
    """Mean over all orders of the answers in which scores fall: errors among the first k, over k."""
    rows = list(zip(score, correct, strict=True))
    orders = [order for order in permutations(rows) if all(a[0] >= b[0] for a, b in pairwise(order))]
    errors = np.cumsum([[not right for _, right in order] for order in orders], axis=1)
    return errors.mean(axis=0) / np.arange(1, len(rows) + 1)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_risk_is_the_mean_over_all_orders_of_tied_answers(rows):
    score, correct = [row[0] for row in rows], [row[1] for row in rows]
    assert risk_coverage(score, correct) == pytest.approx(slow_risk(score, correct), abs=1e-12)
    assert aurc(score, correct) == pytest.approx(slow_risk(score, correct).mean(), abs=1e-12)


@given(samples())
def test_everything_answered_has_the_error_rate(sample):
    assert risk_coverage(*sample)[-1] == pytest.approx(1 - sample[1].mean(), abs=1e-12)


@given(samples())
def test_no_ranking_is_better_than_the_best_nor_worse_than_the_worst(sample):
    confidence, correct = sample
    assert -1e-12 <= excess_aurc(confidence, correct) <= aurc(confidence, correct) + 1e-12
    assert aurc(correct, correct) - 1e-12 <= aurc(confidence, correct) <= aurc(~correct, correct) + 1e-12
    assert excess_aurc(correct, correct) == pytest.approx(0, abs=1e-12)


def test_the_area_of_a_known_ranking():
    """Right, wrong, right, wrong: risks 0, 1/2, 1/3, 1/2; the best order has 0, 0, 1/3, 1/2."""
    score, correct = [4, 3, 2, 1], [1, 0, 1, 0]
    assert risk_coverage(score, correct) == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert aurc(score, correct) == pytest.approx(1 / 3)
    assert excess_aurc(score, correct) == pytest.approx(1 / 8)


@pytest.mark.parametrize(("correct", "area"), [([1, 1, 1], 0), ([0, 0, 0], 1)])
def test_one_class_has_an_area_and_nothing_to_gain(correct, area):
    assert aurc([0.1, 0.5, 0.9], correct) == area
    assert excess_aurc([0.1, 0.5, 0.9], correct) == 0


def test_a_constant_score_has_the_error_rate_as_its_area():
    assert aurc([0.5] * 10, np.arange(10) < 7) == pytest.approx(0.3)


def test_the_best_area_approaches_its_published_approximation():
    """r + (1 - r) ln(1 - r) is the limit for many answers; the sum differs from the integral by at most r / N."""
    correct = np.arange(10_000) < 7_000
    assert aurc(correct, correct) == pytest.approx(0.3 + 0.7 * log(0.7), abs=0.3 / 10_000)


def test_accuracy_at_the_coverage_of_another_model():
    score, correct = [0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1]
    assert accuracy_at_coverage(score, correct, 0.5) == 1
    assert accuracy_at_coverage(score, correct, 0.75) == pytest.approx(2 / 3)
    assert accuracy_at_coverage(score, correct, 1) == pytest.approx(3 / 4)
    assert accuracy_at_coverage(score, correct, 0.625) == pytest.approx(2 / 3), "two and a half questions are three"
    assert isnan(accuracy_at_coverage(score, correct, 0.1))
    with pytest.raises(ValueError, match=r"coverage must be in \[0, 1\], not 2; divide"):
        accuracy_at_coverage(score, correct, 2)


def test_accuracy_on_answered_counts_only_what_was_answered():
    correct, answered = [1, 0, 1, 1], [True, True, False, False]
    assert accuracy_on_answered(correct, answered) == pytest.approx(1 / 2)
    assert refusal_rate(answered) == pytest.approx(1 / 2)


def test_nothing_answered_has_no_accuracy():
    assert isnan(accuracy_on_answered([0, 0], [False, False]))
    assert refusal_rate([False, False]) == 1


@given(samples(), st.floats(0, 1))
def test_answered_by_threshold_is_a_point_of_the_curve(sample, threshold):
    confidence, correct = sample
    answered = confidence > threshold
    coverage = 1 - refusal_rate(answered)
    expected = accuracy_at_coverage(confidence, correct, coverage)
    assert accuracy_on_answered(correct, answered) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("correct", "answered", "reason"),
    [
        ([1, 0], [0.7, 0.2], "answered must be True or False .* compare a graded value with a threshold"),
        ([1, 0.5], [1, 1], "correct must be True or False"),
        ([1], [1, 1], r"answered has shape \(2,\), correct \(1,\)"),
        ([], [], "nothing to measure"),
    ],
)
def test_bad_refusals_are_refused(correct, answered, reason):
    with pytest.raises(ValueError, match=reason):
        accuracy_on_answered(correct, answered)
    if reason.startswith("answered must"):
        with pytest.raises(ValueError, match=reason):
            refusal_rate(answered)


@given(samples(largest=60), st.integers(1, 30))
def test_the_rows_are_points_of_the_curve_up_to_everything_answered(sample, points):
    rows, risk = risk_coverage_rows(*sample, points=points), risk_coverage(*sample)
    assert len(rows) == min(points, len(risk))
    assert rows[-1]["coverage"] == 1
    for row in rows:
        k = round(row["coverage"] * len(risk))
        assert row["risk"] == risk[k - 1]
        assert row["threshold"] == sorted(sample[0], reverse=True)[k - 1]


def test_a_long_curve_is_thinned_evenly():
    rows = risk_coverage_rows(*random_answers(1_000), points=10)
    assert [row["coverage"] for row in rows] == pytest.approx(np.arange(1, 11) / 10)


def test_a_curve_of_several_samples_is_refused():
    with pytest.raises(ValueError, match=r"one sample \[N\] at one point or more, not shape \(2, 3\)"):
        risk_coverage_rows(np.full((2, 3), 0.5), np.ones((2, 3)))
