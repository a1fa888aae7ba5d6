"""How well a score ranks right answers above wrong ones: AUROC and average precision.

Only the order of the scores counts, so log-probabilities serve as well as confidences. Tied scores stand at one threshold and
no result depends on the order of the answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tasks.evaluate.calibration.samples import FloatArray, IntArray, Score, check_ranking


@dataclass(frozen=True)
class Ranking:
    """Answers by falling score, [..., N]. An answer's tie is the run [start, stop) of answers with its score."""

    score: FloatArray
    correct: FloatArray
    start: IntArray
    stop: IntArray
    hits_before: FloatArray
    """Right answers among the first `start`."""
    hits_through: FloatArray
    """Right answers among the first `stop`."""


def rank(score: ArrayLike, correct: ArrayLike) -> Ranking:
    """Rank answers [..., N] by falling score. Raises ValueError for answers that `check_ranking` refuses."""
    score, correct = check_ranking(score, correct)
    order = np.argsort(-score, axis=-1, kind="stable")
    score, correct = np.take_along_axis(score, order, axis=-1), np.take_along_axis(correct, order, axis=-1)
    start, stop = _ties(score)
    hits = np.concatenate([np.zeros_like(correct[..., :1]), np.cumsum(correct, axis=-1)], axis=-1)
    before, through = np.take_along_axis(hits, start, axis=-1), np.take_along_axis(hits, stop, axis=-1)
    return Ranking(score, correct, start, stop, before, through)


def auroc(score: ArrayLike, correct: ArrayLike) -> Score:
    """Area under the ROC curve, answers [N]: how often a right answer outscores a wrong one, ties counting one half.

    `1/(N+ N-) sum_{i right, j wrong} [s_i > s_j] + [s_i = s_j]/2` (Hanley and McNeil 1982). NaN when all answers are right, or
    all wrong. Raises as `rank`.
    """
    ranked = rank(score, correct)
    hits = ranked.correct.sum(axis=-1)
    misses = ranked.correct.shape[-1] - hits
    missed_above = (ranked.start - ranked.hits_before + ranked.stop - ranked.hits_through) / 2
    wins = (ranked.correct * (misses[..., None] - missed_above)).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return wins / (hits * misses)


def average_precision(score: ArrayLike, correct: ArrayLike) -> Score:
    """Area under the precision-recall curve of answers [N] as a step function: `sum_n (R_n - R_{n-1}) P_n`, scikit-learn's.

    Precision P and recall R are those of the answers at or above the n-th distinct score. R-Tuning's published figures are
    computed with this definition. NaN when no answer is right; equal to accuracy for a constant score. Raises as `rank`.
    """
    ranked = rank(score, correct)
    return _weighted_precision(ranked, ranked.hits_through / ranked.stop)


def average_precision_as_printed(score: ArrayLike, correct: ArrayLike) -> Score:
    """`sum_k (R_{k+1} - R_k) P_k`, as R-Tuning (Zhang et al. 2024) prints its AP: precision at the threshold *before*.

    P_0 is 0/0 there; taken as P_1, which for untied scores changes nothing (its term is 0 unless the first answer is right, and
    then P_1 = 1). Without ties it lies below `average_precision` by at most (1 + ln N) / N+. NaN and ValueError as there.
    """
    ranked = rank(score, correct)
    before = ranked.hits_before / np.maximum(ranked.start, 1)
    return _weighted_precision(ranked, np.where(ranked.start > 0, before, ranked.hits_through / ranked.stop))


def _weighted_precision(ranked: Ranking, precision: FloatArray) -> Score:
    """Average `precision` [..., N] over the right answers: each of them raises recall by the same step."""
    with np.errstate(invalid="ignore"):
        return (ranked.correct * precision).sum(axis=-1) / ranked.correct.sum(axis=-1)


def _ties(score: FloatArray) -> tuple[IntArray, IntArray]:
    """Return first index and end index of each answer's run of equal scores, for sorted scores [..., N]."""
    size = score.shape[-1]
    place = np.arange(size)
    changes = score[..., 1:] != score[..., :-1]
    edge = np.ones_like(score[..., :1], dtype=bool)
    first, last = np.concatenate([edge, changes], axis=-1), np.concatenate([changes, edge], axis=-1)
    start = np.maximum.accumulate(np.where(first, place, 0), axis=-1)
    stop = np.minimum.accumulate(np.where(last, place + 1, size)[..., ::-1], axis=-1)[..., ::-1]
    return start, stop
