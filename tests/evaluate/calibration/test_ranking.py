"""AUROC and average precision, equal to scikit-learn's with ties; R-Tuning's printed form, equal to a slow reading of it."""

from math import isnan, log

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from tasks.evaluate.calibration.ranking import auroc, average_precision, average_precision_as_printed
from tests.evaluate.calibration.answers import random_answers, samples


def slow_printed(score, correct):
    """Go down the distinct scores; weigh each rise of recall with the precision of the threshold before."""
    total, before, recall, precision_before = 0.0, None, 0.0, None
    for threshold in sorted(set(score), reverse=True):
        taken = [right for value, right in zip(score, correct, strict=True) if value >= threshold]
        precision, reached = sum(taken) / len(taken), sum(taken) / sum(correct)
        before = precision if precision_before is None else precision_before
        total += (reached - recall) * before
        recall, precision_before = reached, precision
    return total


@given(samples(smallest=2))
def test_auroc_is_that_of_scikit_learn(sample):
    confidence, correct = sample
    assume(0 < correct.sum() < len(correct))
    assert auroc(confidence, correct) == pytest.approx(roc_auc_score(correct, confidence), abs=1e-12)


@given(samples())
def test_auroc_counts_pairs(sample):
    confidence, correct = sample
    right, wrong = confidence[correct], confidence[~correct]
    assume(len(right) and len(wrong))
    pairs = [(r > w) + (r == w) / 2 for r in right for w in wrong]
    assert auroc(confidence, correct) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auroc(-confidence, correct) == pytest.approx(1 - auroc(confidence, correct), abs=1e-12)


@given(samples())
def test_average_precision_is_that_of_scikit_learn(sample):
    confidence, correct = sample
    assume(correct.any())
    assert average_precision(confidence, correct) == pytest.approx(average_precision_score(correct, confidence), abs=1e-12)


@given(samples())
def test_the_printed_average_precision_is_a_slow_reading_of_it(sample):
    confidence, correct = sample
    assume(correct.any())
    assert average_precision_as_printed(*sample) == pytest.approx(slow_printed(confidence, correct), abs=1e-12)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_without_ties_the_printed_form_lies_a_little_below(correct):
    assume(any(correct))
    score = -np.arange(len(correct))
    gap = average_precision(score, correct) - average_precision_as_printed(score, correct)
    assert -1e-12 <= gap <= (1 + log(len(correct))) / sum(correct) + 1e-12


def test_the_two_definitions_on_four_answers():
    """Right, wrong, right, wrong: 1/2 * 1 + 1/2 * 2/3, against 1/2 * P_0 + 1/2 * 1/2 with P_0 = 1."""
    assert average_precision([4, 3, 2, 1], [1, 0, 1, 0]) == pytest.approx(5 / 6)
    assert average_precision_as_printed([4, 3, 2, 1], [1, 0, 1, 0]) == pytest.approx(3 / 4)


@pytest.mark.parametrize("metric", [average_precision, average_precision_as_printed])
def test_a_constant_score_is_worth_the_accuracy(metric):
    assert metric([0.5] * 5, [1, 0, 0, 1, 0]) == pytest.approx(0.4)


def test_a_constant_score_ranks_no_better_than_chance():
    assert auroc([0.5] * 5, [1, 0, 0, 1, 0]) == pytest.approx(0.5)


@pytest.mark.parametrize("metric", [auroc, average_precision, average_precision_as_printed])
def test_all_right_above_all_wrong_is_perfect(metric):
    assert metric([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0]) == 1


@pytest.mark.parametrize("correct", [[1, 1, 1], [0, 0, 0], [1], [0]])
def test_auroc_does_not_exist_for_one_class(correct):
    assert isnan(auroc(np.linspace(0, 1, len(correct)), correct))


def test_average_precision_does_not_exist_when_nothing_is_right_and_is_1_when_all_is():
    for metric in (average_precision, average_precision_as_printed):
        assert isnan(metric([0.1, 0.2], [0, 0]))
        assert metric([0.1, 0.2], [1, 1]) == 1


@given(samples())
def test_only_the_order_of_scores_counts(sample):
    """The rank of each score, times a negative number: the order turned round, whatever the distances."""
    confidence, correct = sample
    _, place = np.unique(confidence, return_inverse=True)
    for metric in (auroc, average_precision, average_precision_as_printed):
        assert metric(confidence, correct) == pytest.approx(metric(place**3 - 100.0, correct), abs=1e-12, nan_ok=True)


def test_many_answers_equal_scikit_learn():
    confidence, correct = random_answers(20_000)
    confidence = confidence.round(3)
    assert auroc(confidence, correct) == pytest.approx(roc_auc_score(correct, confidence), abs=1e-12)
    assert average_precision(confidence, correct) == pytest.approx(average_precision_score(correct, confidence), abs=1e-12)
