"""What a calibration metric accepts, and what it refuses with the remedy.

All metrics of this package read one of two forms. Answers: `confidence` and `correct`, both [N]. Choices: `probs` [N, K] and
`label` [N]. Leading axes are samples side by side ([R, N] gives [R] scores), which is what makes the bootstrap one call.
Import from the modules, not from the package: a stage's deps name the files that can change its numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
Score = np.float64 | FloatArray
"""One score a sample: for a single sample a numpy float, which is a Python float and goes into JSON; else an array. NaN where a
score does not exist (an AUROC of answers that are all right): never 0, and `scores.calibration_scores` leaves it out."""
ROUNDING = 1e-6
"""How far single-precision rounding may carry a probability over 0, 1 or a bin's edge without meaning it."""
SUM_ROUNDING = 1e-4
"""How far the probabilities of one row may sum from 1."""


def check_confidence(confidence: ArrayLike, correct: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return confidence in [0, 1] and correctness in {0, 1}, float64, one shape [..., N].

    Raises ValueError when they are empty, of different shapes, NaN, outside these ranges; up to `ROUNDING` outside is clipped.
    """
    confidence, correct = check_ranking(confidence, correct, "confidence")
    return check_unit_interval(confidence, "confidence"), correct


def check_ranking(score: ArrayLike, correct: ArrayLike, name: str = "score") -> tuple[FloatArray, FloatArray]:
    """Return any ordered score (log-probabilities too, infinities included) and correctness in {0, 1}, one shape [..., N].

    Raises ValueError when they are empty, of different shapes, NaN, or when `correct` holds anything but 0 and 1.
    """
    score, correct = _numbers(score, name), check_flags(correct, "correct")
    check_shapes(score, correct, name)
    return score, correct


def check_unit_interval(values: ArrayLike, name: str) -> FloatArray:
    """Return values in [0, 1], any shape; up to `ROUNDING` outside is clipped. Raises ValueError when empty, NaN or beyond."""
    numbers = _numbers(values, name)
    low, high = numbers.min(), numbers.max()
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(
            f"{name} runs from {low:g} to {high:g}, outside [0, 1]; divide a stated level by its scale (8 of 10 is 0.8), "
            "take exp() of a log-probability"
        )
    return np.clip(numbers, 0, 1)


def check_flags(flags: ArrayLike, name: str) -> FloatArray:
    """Return 0 and 1 for False and True, any shape. Raises ValueError when empty, NaN, or anything but these."""
    numbers = _numbers(flags, name)
    if not ((numbers == 0) | (numbers == 1)).all():
        raise ValueError(f"{name} must be True or False (1 or 0) throughout; compare a graded value with a threshold first")
    return numbers


def check_shapes(values: FloatArray, correct: FloatArray, name: str) -> None:
    """Raise ValueError unless both have one value for every answer."""
    if values.shape != correct.shape:
        raise ValueError(f"{name} has shape {values.shape}, correct {correct.shape}; give one of each for every answer")


def check_choices(probs: ArrayLike, label: ArrayLike) -> tuple[FloatArray, IntArray]:
    """Return probabilities [..., N, K], rows summing to 1, and the index of the right choice [..., N].

    Raises ValueError when they are empty, NaN, outside [0, 1], not normalised, or when a label names no choice.
    """
    probs = check_unit_interval(probs, "probs")
    index = np.asarray(label)
    if probs.ndim < 2 or index.shape != probs.shape[:-1]:
        raise ValueError(f"probs has shape {probs.shape}, label {index.shape}; give probs [N, K] and label [N]")
    if not np.issubdtype(index.dtype, np.integer) or index.min() < 0 or index.max() >= probs.shape[-1]:
        raise ValueError(f"label must be a whole number from 0 to {probs.shape[-1] - 1}, the column of the right choice")
    if np.abs(probs.sum(axis=-1) - 1).max() > SUM_ROUNDING:
        raise ValueError("every row of probs must sum to 1; take the softmax over these choices alone")
    return probs, index.astype(np.intp)


def one_hot(label: IntArray, choices: int) -> FloatArray:
    """Return [..., N, K] with 1 at the right choice and 0 elsewhere."""
    return (label[..., None] == np.arange(choices)).astype(np.float64)


def top_label(probs: ArrayLike, label: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return (confidence, correct), both [..., N], of the most probable choice; the first one among equals."""
    probs, label = check_choices(probs, label)
    return probs.max(axis=-1), (probs.argmax(axis=-1) == label).astype(np.float64)


def _numbers(values: ArrayLike, name: str) -> FloatArray:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers in one regular array: {error}") from None
    if numbers.ndim == 0 or numbers.size == 0:
        raise ValueError(
            f"{name} holds no list of values: nothing to measure; where no answer could be parsed, report the parse rate alone"
        )
    if np.isnan(numbers).any():
        raise ValueError(
            f"{name} holds {int(np.isnan(numbers).sum())} NaN; leave answers without a value out and report how many, "
            "a filled-in 0 would count as honest doubt"
        )
    return numbers
