"""What a model gains by not answering: risk against coverage, accuracy on what it answered, and how much it refused.

Accuracy on answered questions means nothing without the refusal rate beside it: report both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tasks.evaluate.calibration.ranking import rank
from tasks.evaluate.calibration.samples import FloatArray, Score, check_flags, check_ranking, check_shapes

POINTS = 100


def risk_coverage(score: ArrayLike, correct: ArrayLike) -> FloatArray:
    """Return the risk [N] of answering only the k highest-scored of N questions, k = 1..N: the share of wrong ones among them.

    At k/N coverage, `risk_k = errors among the first k / k` (El-Yaniv and Wiener 2010). Within a tie, errors are spread evenly:
    the expectation over a random order of the tied. Raises ValueError for answers that `check_ranking` refuses.
    """
    ranked = rank(score, correct)
    k = np.arange(1, ranked.correct.shape[-1] + 1)
    errors_before, errors_through = ranked.start - ranked.hits_before, ranked.stop - ranked.hits_through
    into_tie = (k - ranked.start) / (ranked.stop - ranked.start)
    return (errors_before + into_tie * (errors_through - errors_before)) / k


def aurc(score: ArrayLike, correct: ArrayLike) -> Score:
    """Area under the risk-coverage curve in [0, 1]: `1/N sum_k risk_k` (Geifman et al. 2019); lower is better.

    Equal to the error rate when all scores are tied. Raises as `risk_coverage`.
    """
    return np.mean(risk_coverage(score, correct), axis=-1)


def excess_aurc(score: ArrayLike, correct: ArrayLike) -> Score:
    """AURC above that of a score which ranks every right answer first: what better ranking could still gain, in [0, 1].

    The optimum `1/N sum_{k > n_right} (k - n_right)/k` is exact; Geifman et al. 2019 approximate it by `r + (1 - r) ln(1 - r)`,
    r the error rate. Raises as `risk_coverage`.
    """
    _, truth = check_ranking(score, correct)
    return aurc(score, correct) - aurc(truth, truth)


def accuracy_at_coverage(score: ArrayLike, correct: ArrayLike, coverage: float) -> Score:
    """Accuracy on the `coverage` (in [0, 1], rounded to a whole question, halves up) highest-scored of N questions.

    Compares a model that cannot refuse with one that answers this share. NaN when that is no question. Raises as `risk_coverage`,
    and for a coverage outside [0, 1].
    """
    if not 0 <= coverage <= 1:
        raise ValueError(f"coverage must be in [0, 1], not {coverage}; divide the number of answers by that of questions")
    risk = risk_coverage(score, correct)
    answered = int(coverage * risk.shape[-1] + 0.5)
    return 1 - risk[..., answered - 1] if answered else np.full(risk.shape[:-1], np.nan)[()]


def accuracy_on_answered(correct: ArrayLike, answered: ArrayLike) -> Score:
    """Share of right ones among the answered of N questions, both [N] of 0 and 1. NaN, not 0, when none was answered.

    `correct` of a refused question does not count. Raises ValueError for empty, NaN, or other values than 0 and 1.
    """
    answered, correct = check_flags(answered, "answered"), check_flags(correct, "correct")
    check_shapes(answered, correct, "answered")
    with np.errstate(invalid="ignore"):
        return (correct * answered).sum(axis=-1) / answered.sum(axis=-1)


def refusal_rate(answered: ArrayLike) -> Score:
    """Share of N questions that were not answered, in [0, 1]: 1 - coverage. Raises as `accuracy_on_answered`."""
    return 1 - np.mean(check_flags(answered, "answered"), axis=-1)


def risk_coverage_rows(score: ArrayLike, correct: ArrayLike, *, points: int = POINTS) -> list[dict[str, Any]]:
    """Return the risk-coverage curve of one sample [N] as rows for `publish_curve`, at most `points`, evenly over coverage.

    Columns: coverage and risk (shares; the last row has coverage 1 and the error rate), threshold (the lowest score answered).
    Raises as `risk_coverage`.
    """
    risk = risk_coverage(score, correct)
    if risk.ndim != 1 or points < 1:
        raise ValueError(f"a curve shows one sample [N] at one point or more, not shape {risk.shape} at {points}")
    threshold = rank(score, correct).score
    kept = np.unique(-(-np.arange(1, points + 1) * len(risk) // points)) - 1
    return [{"coverage": float(k + 1) / len(risk), "risk": float(risk[k]), "threshold": float(threshold[k])} for k in kept]
