"""Scores that are a mean over answers: the proper ones (Brier, negative log-likelihood), and one that only looks like them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tasks.evaluate.calibration.samples import FloatArray, Score, check_choices, check_confidence, one_hot

SMALLEST = float(np.finfo(np.float64).eps)
"""Probability below which NLL counts no further, as in scikit-learn: certain and wrong costs 36.04 nats, not infinity."""


def brier(confidence: ArrayLike, correct: ArrayLike) -> Score:
    """Brier score in [0, 1] of answers [N]: `mean (confidence - correct)^2` (Brier 1950). Proper: truth alone minimises it.

    Raises ValueError for answers that `check_confidence` refuses.
    """
    confidence, correct = check_confidence(confidence, correct)
    return np.mean((confidence - correct) ** 2, axis=-1)


def nll(confidence: ArrayLike, correct: ArrayLike) -> Score:
    """Negative log-likelihood in nats of answers [N]: `-mean ln(confidence if correct else 1 - confidence)` (Good 1952).

    Proper. Probabilities count from `SMALLEST` up. Raises as `brier`.
    """
    confidence, correct = check_confidence(confidence, correct)
    return _surprise(np.where(correct == 1, confidence, 1 - confidence))


def mace(confidence: ArrayLike, correct: ArrayLike) -> Score:
    """Mean absolute confidence error in [0, 1] of answers [N]: `mean |confidence - correct|`.

    SaySelf's evaluation prints it as "ECE"; it is neither binned nor proper: rounding calibrated confidence to 0 or 1 lowers it
    (from 1/3 to 1/4 for confidence uniform on [0, 1]). For comparison with published figures only. Raises as `brier`.
    """
    confidence, correct = check_confidence(confidence, correct)
    return np.mean(np.abs(confidence - correct), axis=-1)


def choice_brier(probs: ArrayLike, label: ArrayLike) -> Score:
    """Brier score in [0, 2] of all K choices, probs [N, K] and label [N]: `mean_n sum_k (p_nk - [k = label_n])^2` (Brier 1950).

    For K = 2 twice `brier` of either choice. Raises ValueError for choices that `check_choices` refuses.
    """
    probs, label = check_choices(probs, label)
    return np.mean(((probs - one_hot(label, probs.shape[-1])) ** 2).sum(axis=-1), axis=-1)


def choice_nll(probs: ArrayLike, label: ArrayLike) -> Score:
    """Negative log-likelihood in nats of the right choice, probs [N, K] and label [N]: `-mean_n ln p_n,label_n`.

    Probabilities count from `SMALLEST` up. Raises as `choice_brier`.
    """
    probs, label = check_choices(probs, label)
    return _surprise(np.take_along_axis(probs, label[..., None], axis=-1)[..., 0])


def _surprise(probability: FloatArray) -> Score:
    return -np.mean(np.log(np.maximum(probability, SMALLEST)), axis=-1)
