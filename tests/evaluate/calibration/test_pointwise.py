"""Proper scores, equal to scikit-learn's; and the one that is not proper, shown to be so."""

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, mean_absolute_error

from tasks.evaluate.calibration.binned import ece
from tasks.evaluate.calibration.pointwise import SMALLEST, brier, choice_brier, choice_nll, mace, nll
from tests.evaluate.calibration.answers import choices, samples


@given(samples())
def test_scores_of_answers_are_those_of_scikit_learn(sample):
    confidence, correct = sample
    assert brier(confidence, correct) == pytest.approx(brier_score_loss(correct, confidence, pos_label=True), abs=1e-12)
    assert nll(confidence, correct) == pytest.approx(log_loss(correct, confidence, labels=[False, True]), abs=1e-12)
    assert mace(confidence, correct) == pytest.approx(mean_absolute_error(correct, confidence), abs=1e-12)


@given(choices())
def test_scores_of_choices_are_those_of_scikit_learn(sample):
    probs, label = sample
    names = list(range(probs.shape[1]))
    whole = brier_score_loss(label, probs, labels=names, scale_by_half=False)
    assert choice_brier(probs, label) == pytest.approx(whole, abs=1e-12)
    assert choice_nll(probs, label) == pytest.approx(log_loss(label, probs, labels=names), abs=1e-12)


@given(samples())
def test_two_choices_score_as_one_answer(sample):
    confidence, correct = sample
    probs, label = np.stack([1 - confidence, confidence], axis=1), correct.astype(int)
    assert choice_brier(probs, label) == pytest.approx(2 * brier(confidence, correct), abs=1e-12)
    assert choice_nll(probs, label) == pytest.approx(nll(confidence, correct), abs=1e-12)


@given(samples())
def test_scores_keep_their_bounds(sample):
    assert 0 <= brier(*sample) <= mace(*sample) <= 1
    assert 0 <= nll(*sample) <= -log(SMALLEST) + 1e-12


def test_certain_and_right_costs_nothing_certain_and_wrong_the_most():
    assert (brier([1, 0], [1, 0]), nll([1, 0], [1, 0]), mace([1, 0], [1, 0])) == (0, 0, 0)
    assert (brier([1, 0], [0, 1]), mace([1, 0], [0, 1])) == (1, 1)
    assert nll([1, 0], [0, 1]) == pytest.approx(52 * log(2))


@given(st.floats(0.01, 0.99), st.floats(0, 1))
def test_only_the_truth_minimises_a_proper_score(truth, stated):
    """Expected scores of one answer that is right with probability `truth`, taken exactly over both outcomes."""

    def expected(metric, confidence):
        return truth * metric([confidence], [1]) + (1 - truth) * metric([confidence], [0])

    assert expected(brier, stated) - expected(brier, truth) == pytest.approx((stated - truth) ** 2, abs=1e-12)
    assert expected(nll, stated) >= expected(nll, truth) - 1e-12
    assert expected(mace, round(truth)) <= expected(mace, truth) + 1e-12


def test_the_mean_absolute_error_rewards_rounding_where_proper_scores_punish_it():
    """Confidence uniform on [0, 1] and true: 1/3, 1/6, 0; the same rounded to 0 or 1: all three 1/4."""
    rng = np.random.default_rng(0)
    stated = rng.random(100_000)
    correct = rng.random(100_000) < stated
    said = [metric(stated, correct) for metric in (mace, brier)] + [ece(stated, correct, bins=10)]
    rounded = [metric(stated.round(), correct) for metric in (mace, brier)] + [ece(stated.round(), correct, bins=10)]
    assert said == pytest.approx([1 / 3, 1 / 6, 0], abs=0.01)
    assert rounded == pytest.approx([1 / 4, 1 / 4, 1 / 4], abs=0.01)
