"""Binned calibration errors: equal to scikit-learn and to a slow reading of their definition; Murphy's parts add up."""

import csv
from fractions import Fraction
from math import ceil, log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from tasks.evaluate.calibration.binned import adaptive_ece, brier_parts, classwise_ece, ece, reliability_rows
from tasks.evaluate.calibration.pointwise import brier, mace
from tasks.evaluate.calibration.samples import ROUNDING
from tasks.runtime.publish import publish_curve
from tests.evaluate.calibration.answers import choices, random_answers, samples

BINS = st.integers(1, 20)
BINNINGS = ["equal_width", "equal_mass"]


def slow_bins(confidence, correct, bins, binning):
    """Sort answers into lists, bin by bin, as the definition reads."""
    ordered = sorted(confidence)
    if binning == "equal_width":
        uppers = [(b + 1) / bins + ROUNDING for b in range(bins)]
    else:
        uppers = [ordered[ceil(Fraction((b + 1) * len(ordered), bins)) - 1] for b in range(bins)]
    found = [[] for _ in range(bins)]
    for c, y in zip(confidence, correct, strict=True):
        found[next(b for b, upper in enumerate(uppers) if c <= upper)].append((c, float(y)))
    return [rows for rows in found if rows]


def slow_ece(confidence, correct, bins, binning):
    gaps = []
    for rows in slow_bins(confidence, correct, bins, binning):
        mean_confidence, accuracy = (sum(column) / len(rows) for column in zip(*rows, strict=True))
        gaps.append(len(rows) / len(confidence) * abs(accuracy - mean_confidence))
    return sum(gaps)


@given(samples(), BINS, st.sampled_from(BINNINGS))
def test_ece_is_its_definition(sample, bins, binning):
    assert ece(*sample, bins=bins, binning=binning) == pytest.approx(slow_ece(*sample, bins, binning), abs=1e-12)


@pytest.mark.parametrize(("binning", "strategy"), [("equal_width", "uniform"), ("equal_mass", "quantile")])
@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("tied", [False, True])
def test_the_bins_are_those_of_scikit_learn(binning, strategy, bins, tied):
    """For equal mass its interpolated edges part the same answers wherever the bins divide their number."""
    confidence, correct = random_answers(3000)
    confidence = np.round(confidence * 7) / 7.3 if tied else confidence
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=bins, strategy=strategy)
    rows = reliability_rows(confidence, correct, bins=bins, binning=binning)
    assert [row["accuracy"] for row in rows] == pytest.approx(accuracy, abs=1e-12)
    assert [row["confidence"] for row in rows] == pytest.approx(mean_confidence, abs=1e-12)
    expected = sum(row["count"] / 3000 * abs(a - c) for row, a, c in zip(rows, accuracy, mean_confidence, strict=True))
    assert ece(confidence, correct, bins=bins, binning=binning) == pytest.approx(expected, abs=1e-12)


def test_answers_as_often_right_as_stated_have_no_error():
    """Of ten answers at confidence k/10, k are right: exactly, for any bins."""
    confidence = np.repeat(np.arange(11) / 10, 10)
    correct = np.concatenate([np.arange(10) < level for level in range(11)])
    for bins in range(1, 30):
        for binning in BINNINGS:
            assert ece(confidence, correct, bins=bins, binning=binning) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("binning", BINNINGS)
def test_drawn_from_its_own_confidence_the_error_is_only_noise(binning):
    """At most sqrt(bins / N) / 2 in expectation; by McDiarmid above it by more than the second term in one of 10^12 draws."""
    size, rng = 100_000, np.random.default_rng(0)
    confidence = rng.random(size)
    found = ece(confidence, rng.random(size) < confidence, binning=binning)
    assert 0 < found < sqrt(15 / size) / 2 + sqrt(log(1e12) / (2 * size))


def test_constant_certainty_that_is_right_in_seven_of_ten_is_off_by_three_tenths():
    assert ece(np.ones(10), np.arange(10) < 7) == pytest.approx(0.3)


def test_a_confidence_on_an_edge_goes_to_the_lower_bin_and_0_to_the_first():
    levels = np.arange(11) / 10
    rows = reliability_rows(levels, np.ones(11), bins=10)
    assert [row["count"] for row in rows] == [2] + [1] * 9
    assert rows[0]["confidence"] == pytest.approx(0.05)


def test_stated_levels_fall_into_the_same_bins_in_single_precision():
    levels = np.arange(11, dtype=np.float32) / np.float32(10)
    assert [row["count"] for row in reliability_rows(levels, np.ones(11), bins=10)] == [2] + [1] * 9


@given(st.integers(1, 60), BINS)
def test_equal_mass_bins_hold_as_many_answers_give_or_take_one(size, bins):
    confidence = np.random.default_rng(size).permutation(size) / size
    counts = [row["count"] for row in reliability_rows(confidence, confidence > 0.5, bins=bins, binning="equal_mass")]
    assert sum(counts) == size
    assert max(counts) - min(counts) <= 1


def test_equal_mass_bins_part_confidences_that_crowd_below_one():
    """An overconfident model's differ by far less than what counts as rounding at an equal-width edge."""
    confidence = 1 - np.arange(8) * 1e-9
    rows = reliability_rows(confidence, np.ones(8), bins=4, binning="equal_mass")
    assert [row["count"] for row in rows] == [2, 2, 2, 2]


@given(samples(), BINS, st.sampled_from(BINNINGS))
def test_ece_lies_between_the_total_gap_and_its_upper_bounds(sample, bins, binning):
    """Total gap <= ECE (triangle inequality) <= mean absolute error, and <= the root of the reliability (Jensen)."""
    confidence, correct = sample
    found, parts = ece(confidence, correct, bins=bins, binning=binning), brier_parts(*sample, bins=bins, binning=binning)
    assert abs(confidence.mean() - correct.mean()) - 1e-12 <= found
    assert found <= mace(confidence, correct) + 1e-12
    assert found <= sqrt(parts.reliability) + 1e-12


@given(samples(), st.integers(1, 8), st.integers(2, 5))
def test_finer_bins_never_hide_an_error(sample, bins, factor):
    coarse, fine = brier_parts(*sample, bins=bins), brier_parts(*sample, bins=bins * factor)
    assert ece(*sample, bins=bins * factor) >= ece(*sample, bins=bins) - 1e-12
    assert fine.reliability >= coarse.reliability - 1e-12
    assert fine.resolution >= coarse.resolution - 1e-12
    assert fine.uncertainty == coarse.uncertainty


@given(samples(), BINS, st.sampled_from(BINNINGS))
def test_the_parts_add_up_to_the_brier_score(sample, bins, binning):
    parts = brier_parts(*sample, bins=bins, binning=binning)
    whole = parts.reliability - parts.resolution + parts.uncertainty + parts.residual
    assert whole == pytest.approx(brier(*sample), abs=1e-12)
    assert parts.reliability >= 0
    assert 0 <= parts.resolution <= parts.uncertainty + 1e-12


@given(st.lists(st.tuples(st.integers(1, 10), st.booleans()), min_size=1, max_size=40))
def test_with_one_confidence_a_bin_nothing_is_left_over(rows):
    confidence, correct = np.array([level for level, _ in rows]) / 10, [right for _, right in rows]
    assert brier_parts(confidence, correct, bins=10).residual == pytest.approx(0, abs=1e-12)


def test_the_parts_of_a_known_case():
    """Four answers at 0.8, three right; six at 0.3, three right: (4 .05^2 + 6 .2^2)/10, (4 .15^2 + 6 .1^2)/10, .6 .4."""
    parts = brier_parts([0.8] * 4 + [0.3] * 6, [1, 1, 1, 0, 1, 1, 1, 0, 0, 0], bins=10)
    assert parts.reliability == pytest.approx(0.025)
    assert parts.resolution == pytest.approx(0.015)
    assert parts.uncertainty == pytest.approx(0.24)


def test_confidences_that_vary_within_the_only_bin_leave_variance_minus_twice_covariance():
    confidence, correct = random_answers(500)
    spread = np.cov(confidence, correct.astype(float), bias=True)
    assert brier_parts(confidence, correct, bins=1).residual == pytest.approx(spread[0, 0] - 2 * spread[0, 1])


@given(choices(), BINS)
def test_classwise_and_adaptive_ece_are_means_over_the_choices(sample, bins):
    probs, label = sample
    for metric, binning in ((classwise_ece, "equal_width"), (adaptive_ece, "equal_mass")):
        each = [slow_ece(probs[:, k], label == k, bins, binning) for k in range(probs.shape[1])]
        assert metric(probs, label, bins=bins) == pytest.approx(np.mean(each), abs=1e-12)


def test_adaptive_ece_weighs_all_bins_alike_where_they_divide_the_answers():
    """Nixon's own form: 1/(K R) sum over choices and ranges of |share right - mean probability|."""
    rng = np.random.default_rng(1)
    probs, label = rng.dirichlet(np.ones(3), 60), rng.integers(0, 3, 60)
    gaps = []
    for k in range(3):
        order = np.argsort(probs[:, k])
        gaps += [abs(np.mean(label[part] == k) - np.mean(probs[part, k])) for part in order.reshape(15, 4)]
    assert adaptive_ece(probs, label) == pytest.approx(np.mean(gaps))


def test_two_choices_are_one_answer_seen_twice():
    """Right-closed bins do not mirror at their edges, so confidences keep off them."""
    confidence, correct = random_answers(200)
    probs = np.stack([1 - confidence, confidence], axis=1)
    assert classwise_ece(probs, correct.astype(int), bins=15) == pytest.approx(ece(confidence, correct, bins=15))


def test_the_reliability_diagram_leaves_out_empty_bins(tmp_path):
    rows = reliability_rows([0.1, 0.15, 0.9], [0, 1, 1], bins=5)
    assert [row["bin"] for row in rows] == [0, 4]
    assert rows[0] == pytest.approx({"bin": 0, "low": 0, "high": 0.2, "confidence": 0.125, "accuracy": 0.5, "count": 2})
    publish_curve(tmp_path / "reliability.csv", rows)
    with (tmp_path / "reliability.csv").open() as file:
        assert [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)] == rows


@given(samples(), BINS, st.sampled_from(BINNINGS))
def test_every_bin_of_the_diagram_holds_its_mean_confidence(sample, bins, binning):
    rows = reliability_rows(*sample, bins=bins, binning=binning)
    assert sum(row["count"] for row in rows) == len(sample[0])
    for row in rows:
        assert row["low"] - 1e-12 <= row["confidence"] <= row["high"] + ROUNDING


def test_a_diagram_of_several_samples_is_refused():
    with pytest.raises(ValueError, match=r"one sample \[N\], not shape \(2, 3\)"):
        reliability_rows(np.full((2, 3), 0.5), np.ones((2, 3)))


def test_fewer_than_one_bin_is_refused():
    with pytest.raises(ValueError, match="bins must be at least 1, not 0"):
        ece([0.5], [1], bins=0)
