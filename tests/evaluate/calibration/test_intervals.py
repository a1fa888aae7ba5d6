"""Bootstrap intervals: those of scipy for the same seed, paired where questions are shared, patient with missing scores."""

from functools import partial
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.evaluate.calibration import intervals
from tasks.evaluate.calibration.binned import classwise_ece, ece
from tasks.evaluate.calibration.intervals import bootstrap, bootstrap_difference, if_calibrated
from tasks.evaluate.calibration.pointwise import brier
from tasks.evaluate.calibration.ranking import auroc
from tasks.evaluate.calibration.selective import accuracy_on_answered, aurc
from tests.evaluate.calibration.answers import random_answers

ANSWERS = random_answers(120)


@pytest.mark.parametrize("metric", [ece, brier, auroc, aurc])
def test_the_interval_is_that_of_scipy_with_the_same_seed(metric):
    found = bootstrap(metric, *ANSWERS, seed=3, resamples=500, level=0.9)
    other = stats.bootstrap(
        ANSWERS,
        lambda confidence, correct, axis: metric(confidence, correct),
        paired=True,
        vectorized=True,
        n_resamples=500,
        confidence_level=0.9,
        method="basic",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=1e-12)
    assert found.estimate == metric(*ANSWERS)


def test_the_seed_decides():
    assert bootstrap(ece, *ANSWERS, seed=1, resamples=50) == bootstrap(ece, *ANSWERS, seed=1, resamples=50)
    assert bootstrap(ece, *ANSWERS, seed=1, resamples=50) != bootstrap(ece, *ANSWERS, seed=2, resamples=50)


@pytest.mark.parametrize("cells", [1, 1000, 1 << 30])
def test_how_many_are_scored_at_once_changes_nothing(monkeypatch, cells):
    whole = bootstrap(brier, *ANSWERS, seed=1, resamples=40), if_calibrated(ece, ANSWERS[0], seed=1, resamples=40)
    monkeypatch.setattr(intervals, "CELLS", cells)
    assert (bootstrap(brier, *ANSWERS, seed=1, resamples=40), if_calibrated(ece, ANSWERS[0], seed=1, resamples=40)) == whole


def test_a_wider_level_is_a_wider_interval():
    narrow, wide = (bootstrap(brier, *ANSWERS, seed=0, resamples=500, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_choices_are_drawn_as_whole_rows():
    rng = np.random.default_rng(0)
    probs, label = rng.dirichlet(np.ones(4), 50), rng.integers(0, 4, 50)
    found = bootstrap(partial(classwise_ece, bins=5), probs, label, seed=0, resamples=200)
    assert found.estimate == classwise_ece(probs, label, bins=5)
    assert found.low < found.high


def test_a_model_differs_from_itself_by_exactly_nothing():
    found = bootstrap_difference(ece, ANSWERS, ANSWERS, seed=0, resamples=100)
    assert (found.estimate, found.low, found.high) == (0, 0, 0)


def test_the_difference_turned_round_is_its_negative():
    confidence, correct = ANSWERS
    first, second = (confidence, correct), (confidence**2, correct)
    one = bootstrap_difference(ece, first, second, seed=0, resamples=200)
    other = bootstrap_difference(ece, second, first, seed=0, resamples=200)
    assert (other.estimate, other.low, other.high) == pytest.approx((-one.estimate, -one.high, -one.low), abs=1e-12)


def test_what_the_questions_share_cancels_in_pairs():
    """Squared errors larger by exactly 0.1 on every question: the difference is 0.1 in every resample, each alone varies."""
    error, right = np.linspace(0, 0.9, 60), np.ones(60)
    worse, better = (1 - np.sqrt(error**2 + 0.1), right), (1 - error, right)
    paired = bootstrap_difference(brier, worse, better, seed=0, resamples=200)
    assert (paired.low, paired.estimate, paired.high) == pytest.approx((0.1, 0.1, 0.1), abs=1e-12)
    assert bootstrap(brier, *worse, seed=0, resamples=200).low < bootstrap(brier, *better, seed=0, resamples=200).high


def test_resamples_without_a_score_are_left_out_and_counted():
    """One wrong among three: a resample misses it with (2/3)^3 and holds nothing else with (1/3)^3, so 1/3 have no AUROC."""
    found = bootstrap(auroc, [0.9, 0.5, 0.4], [1, 0, 1], seed=0, resamples=3000)
    assert found.undefined / 3000 == pytest.approx(1 / 3, abs=5 * np.sqrt(2 / 9 / 3000))
    assert 0 <= found.low <= found.high <= 1


def test_a_score_that_does_not_exist_has_no_interval():
    with pytest.raises(ValueError, match="does not exist for these questions .*all right, all wrong"):
        bootstrap(auroc, [0.9, 0.5], [1, 1], seed=0)
    with pytest.raises(ValueError, match="none answered"):
        bootstrap(accuracy_on_answered, [1, 0], [0, 0], seed=0)
    with pytest.raises(ValueError, match="exists in no resample"):
        if_calibrated(auroc, [1.0, 1.0], seed=0)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"level": 1.0}, "level must be between 0 and 1, not 1.0"),
        ({"resamples": 0}, "one resample or more, not 0"),
    ],
)
def test_what_makes_no_interval_is_refused(asked, reason):
    with pytest.raises(ValueError, match=reason):
        bootstrap(brier, *ANSWERS, seed=0, **asked)
    with pytest.raises(ValueError, match=reason):
        if_calibrated(brier, ANSWERS[0], seed=0, **asked)


def test_models_on_different_questions_are_not_compared_in_pairs():
    with pytest.raises(ValueError, match="do not hold the same questions"):
        bootstrap_difference(brier, ANSWERS, random_answers(119), seed=0)


def test_no_questions_have_no_interval():
    with pytest.raises(ValueError, match="nothing to measure"):
        bootstrap(brier, [], [], seed=0)


@pytest.mark.parametrize("size", [1, 4, 25])
def test_the_noise_of_a_calibrated_model_is_known_in_closed_form(size):
    """All at confidence one half, one bin: the mean of |Binomial(N, 1/2)/N - 1/2|, within five standard errors."""
    expected = sum(comb(size, right) / 2**size * abs(right / size - 0.5) for right in range(size + 1))
    found = if_calibrated(partial(ece, bins=1), np.full(size, 0.5), seed=0, resamples=4000)
    assert found.estimate == pytest.approx(expected, abs=5 * 0.5 / np.sqrt(4000))
    assert found.low <= found.estimate <= found.high


def test_certainty_leaves_no_noise():
    found = if_calibrated(ece, [0.0, 1.0, 1.0], seed=0, resamples=20)
    assert (found.estimate, found.low, found.high) == (0, 0, 0)


def test_a_calibrated_model_lies_within_its_noise_and_an_overconfident_one_above():
    """Of 20 calibrated models 19 are expected inside at 95 %, and fewer than 14 in one of 10^4 tries."""
    inside = 0
    for seed in range(20):
        confidence, correct = random_answers(500, seed, overconfident=0.0)
        noise = if_calibrated(ece, confidence, seed=seed, resamples=200)
        inside += bool(noise.low <= ece(confidence, correct) <= noise.high)
    assert inside >= 14
    confidence, correct = random_answers(2_000, overconfident=0.1)
    assert ece(confidence, correct) > if_calibrated(ece, confidence, seed=0, resamples=200).high


@settings(max_examples=25)
@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_intervals_contain_numbers_only(size, seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(size), rng.random(size) < 0.5
    for metric in (ece, brier, aurc):
        found = bootstrap(metric, confidence, correct, seed=seed, resamples=20)
        assert np.isfinite([found.low, found.estimate, found.high]).all()
        assert found.low <= found.high
