"""What every metric refuses and accepts, and what all of them have in common."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluate.calibration.ranking import auroc
from tasks.evaluate.calibration.samples import check_confidence, top_label
from tests.evaluate.calibration.answers import (
    ANSWER_METRICS,
    CHOICE_METRICS,
    CONFIDENCE_METRICS,
    RANKING_METRICS,
    choices,
    samples,
)

BAD_ANSWERS = {
    "empty": ([], [], "nothing to measure; where no answer could be parsed, report the parse rate"),
    "a single number": (0.5, True, "holds no list of values"),
    "NaN": ([0.5, math.nan], [1, 0], "1 NaN; leave answers without a value out"),
    "unparsed": ([0.5, None], [1, 0], "1 NaN; leave answers without a value out"),
    "words": ([0.5, "high"], [1, 0], "must be numbers in one regular array"),
    "lengths": ([0.5, 0.6], [1, 0, 1], r"shape \(2,\), correct \(3,\)"),
    "graded": ([0.5, 0.6], [1, 0.5], "correct must be True or False"),
    "unjudged": ([0.5, 0.6], [1, math.nan], "correct holds 1 NaN"),
}
BAD_CONFIDENCES = {
    "a level of ten": ([8, 3], [1, 0], "runs from 3 to 8, outside .* divide a stated level by its scale"),
    "a log-probability": ([-0.2, -1.5], [1, 0], r"outside \[0, 1\].* take exp\(\) of a log-probability"),
    "infinite": ([math.inf, 0.5], [1, 0], r"outside \[0, 1\]"),
}
BAD_CHOICES = {
    "empty": (np.zeros((0, 3)), [], "nothing to measure"),
    "one row": ([0.5, 0.5], 0, r"give probs \[N, K\] and label \[N\]"),
    "lengths": ([[0.5, 0.5]], [0, 1], r"give probs \[N, K\] and label \[N\]"),
    "NaN": ([[0.5, math.nan]], [0], "probs holds 1 NaN"),
    "negative": ([[1.5, -0.5]], [0], r"outside \[0, 1\]"),
    "not normalised": ([[0.5, 0.3]], [0], "sum to 1; take the softmax over these choices"),
    "no such choice": ([[0.5, 0.5]], [2], "label must be a whole number from 0 to 1"),
    "a negative choice": ([[0.5, 0.5]], [-1], "label must be a whole number from 0 to 1"),
    "a fractional choice": ([[0.5, 0.5]], [0.0], "label must be a whole number from 0 to 1"),
}


@pytest.mark.parametrize("metric", ANSWER_METRICS.values(), ids=ANSWER_METRICS)
@pytest.mark.parametrize(("confidence", "correct", "reason"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_bad_answers_are_refused_with_the_remedy(metric, confidence, correct, reason):
    with pytest.raises(ValueError, match=reason):
        metric(confidence, correct)


@pytest.mark.parametrize("metric", CONFIDENCE_METRICS.values(), ids=CONFIDENCE_METRICS)
@pytest.mark.parametrize(("confidence", "correct", "reason"), BAD_CONFIDENCES.values(), ids=BAD_CONFIDENCES)
def test_what_is_no_probability_is_refused_with_the_remedy(metric, confidence, correct, reason):
    with pytest.raises(ValueError, match=reason):
        metric(confidence, correct)


@pytest.mark.parametrize("metric", CHOICE_METRICS.values(), ids=CHOICE_METRICS)
@pytest.mark.parametrize(("probs", "label", "reason"), BAD_CHOICES.values(), ids=BAD_CHOICES)
def test_bad_choices_are_refused_with_the_remedy(metric, probs, label, reason):
    with pytest.raises(ValueError, match=reason):
        metric(probs, label)


def test_single_precision_over_one_is_rounding_and_not_a_mistake():
    confidence, _ = check_confidence(np.array([1.0000001, -1e-8], dtype=np.float32), [True, False])
    assert confidence.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("metric", RANKING_METRICS.values(), ids=RANKING_METRICS)
def test_a_ranking_takes_log_probabilities_down_to_minus_infinity(metric):
    probability, correct = np.array([0.9, 0.4, 0.0, 0.0, 0.2]), [1, 0, 0, 1, 1]
    with np.errstate(divide="ignore"):
        assert metric(np.log(probability), correct) == metric(probability, correct)


@given(samples(), st.randoms())
def test_the_order_of_answers_does_not_matter(sample, random):
    confidence, correct = sample
    order = random.sample(range(len(correct)), len(correct))
    for name, metric in ANSWER_METRICS.items():
        straight, shuffled = metric(confidence, correct), metric(confidence[order], correct[order])
        assert straight == pytest.approx(shuffled, abs=1e-12, nan_ok=True), name


@given(choices(), st.randoms())
def test_the_order_of_rows_and_of_choices_does_not_matter(sample, random):
    probs, label = sample
    order = random.sample(range(len(label)), len(label))
    columns = random.sample(range(probs.shape[1]), probs.shape[1])
    renamed = np.argsort(columns)[label]
    for name, metric in CHOICE_METRICS.items():
        assert metric(probs, label) == pytest.approx(metric(probs[order], label[order]), abs=1e-12), name
        assert metric(probs, label) == pytest.approx(metric(probs[:, columns], renamed), abs=1e-12), name


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_samples_side_by_side_score_as_each_alone(size, seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.integers(0, 8, (2, 3, size)) / 7, rng.random((2, 3, size)) < 0.5
    probs, label = rng.dirichlet(np.ones(4), (2, 3, size)), rng.integers(0, 4, (2, 3, size))
    for metrics, first, second in ((ANSWER_METRICS, confidence, correct), (CHOICE_METRICS, probs, label)):
        for name, metric in metrics.items():
            together = metric(first, second)
            alone = [[metric(first[i, j], second[i, j]) for j in range(3)] for i in range(2)]
            assert together.shape == (2, 3)
            assert np.allclose(together, alone, atol=1e-12, equal_nan=True), name


@given(samples())
def test_a_score_is_a_float_that_goes_into_json(sample):
    for metric in ANSWER_METRICS.values():
        score = metric(*sample)
        assert isinstance(score, float)
        assert math.isnan(score) or json.loads(json.dumps(score)) == score


def test_the_top_label_is_the_first_of_the_most_probable():
    confidence, correct = top_label([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], [1, 1])
    assert confidence.tolist() == [0.5, 0.4]
    assert correct.tolist() == [1, 0]


def test_plain_lists_do():
    assert auroc([0.9, 0.1], [True, False]) == 1


def test_no_heavy_library_is_loaded():
    """Stages import these metrics at their top; `temper plan` must stay fast."""
    code = "import sys, tasks.evaluate.calibration.scores, tasks.evaluate.calibration.intervals as _; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tasks.evaluate.calibration.binned" in loaded
    assert not {"torch", "scipy", "sklearn", "pandas"} & set(loaded)
