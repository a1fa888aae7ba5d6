"""Calibration errors read from bins: within a bin, is the mean confidence the share of right answers?

A confidence exactly on an edge goes to the lower bin: bins are (low, high], 0 belongs to the first. Equal-width edges are
b/bins, compared up to `samples.ROUNDING`, so that 0.1 in single precision is in the bin of 0.1. Equal-mass bins hold N/bins
answers, give or take one; equal confidences are never split, so bins may then differ, or be empty, and no score depends on the
order of answers.

Errors of this kind are biased upwards: of a perfectly calibrated model they expect not 0 but up to sqrt(bins / N) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tasks.evaluate.calibration.samples import ROUNDING, FloatArray, IntArray, Score, check_choices, check_confidence, one_hot

Binning = Literal["equal_width", "equal_mass"]
BINS = 15


def ece(confidence: ArrayLike, correct: ArrayLike, *, bins: int = BINS, binning: Binning = "equal_width") -> Score:
    """Expected calibration error in [0, 1]: `sum_b n_b/N |accuracy_b - mean confidence_b|`, over answers [N].

    Naeini et al. 2015 and Guo et al. 2017 (equal width); Mukhoti et al. 2020 call the equal-mass one AdaECE. Raises ValueError
    for answers that `check_confidence` refuses, and for fewer than one bin.
    """
    confidence, correct = check_confidence(confidence, correct)
    index = _bin_of(confidence, bins, binning)
    return np.abs(_sums(confidence - correct, index, bins)).sum(axis=-1) / confidence.shape[-1]


def classwise_ece(probs: ArrayLike, label: ArrayLike, *, bins: int = BINS) -> Score:
    """Mean over the K choices of the ECE of "choice k is right", equal-width bins, from probs [N, K] and label [N].

    `1/K sum_k sum_b n_bk/N |share_bk - mean p_bk|`: Kull et al. 2019; the static calibration error of Nixon et al. 2019. Near 0
    for many choices whatever the model: compare it only at the same K. Raises ValueError where `check_choices` does.
    """
    return _over_choices(probs, label, bins, "equal_width")


def adaptive_ece(probs: ArrayLike, label: ArrayLike, *, bins: int = BINS) -> Score:
    """`classwise_ece` over equal-mass bins: the adaptive calibration error of Nixon et al. 2019.

    They weigh all bins alike; here each counts by its answers, which is the same but for ties and for N that `bins` does not
    divide. Raises as `classwise_ece`.
    """
    return _over_choices(probs, label, bins, "equal_mass")


def _over_choices(probs: ArrayLike, label: ArrayLike, bins: int, binning: Binning) -> Score:
    probs, label = check_choices(probs, label)
    truth = one_hot(label, probs.shape[-1])
    by_choice = ece(probs.swapaxes(-1, -2), truth.swapaxes(-1, -2), bins=bins, binning=binning)
    return np.mean(by_choice, axis=-1)


@dataclass(frozen=True)
class BrierParts:
    """Murphy's parts of a Brier score: `brier = reliability - resolution + uncertainty + residual`, all but the last >= 0."""

    reliability: Score
    """Squared distance of confidence from accuracy, over bins: 0 when calibrated."""
    resolution: Score
    """Variance of the accuracy between bins: how well confidence tells right from wrong; at most `uncertainty`."""
    uncertainty: Score
    """Variance of correctness, `accuracy (1 - accuracy)`: what the task itself costs."""
    residual: Score
    """What confidences that vary within a bin add; 0 when every bin holds one value."""


def brier_parts(confidence: ArrayLike, correct: ArrayLike, *, bins: int = BINS, binning: Binning = "equal_width") -> BrierParts:
    """Split the Brier score of answers [N] as Murphy 1973 does, with the within-bin terms of Stephenson et al. 2008.

    With c confidence, y correctness, bars for bin means: reliability `sum_b n_b/N (c̄_b - ȳ_b)^2`, resolution
    `sum_b n_b/N (ȳ_b - ȳ)^2`, uncertainty `ȳ (1 - ȳ)`, residual `mean((c - c̄_b)^2 - 2 (c - c̄_b)(y - ȳ_b))`, computed as written
    and not as what is left over. Raises as `ece`.
    """
    confidence, correct = check_confidence(confidence, correct)
    index = _bin_of(confidence, bins, binning)
    count, mean_confidence, accuracy = _bin_means(confidence, correct, index, bins)
    share, base = count / confidence.shape[-1], correct.mean(axis=-1)
    confidence_off = confidence - np.take_along_axis(mean_confidence, index, axis=-1)
    correct_off = correct - np.take_along_axis(accuracy, index, axis=-1)
    return BrierParts(
        reliability=(share * (mean_confidence - accuracy) ** 2).sum(axis=-1),
        resolution=(share * (accuracy - base[..., None]) ** 2).sum(axis=-1),
        uncertainty=base * (1 - base),
        residual=(confidence_off**2 - 2 * confidence_off * correct_off).mean(axis=-1),
    )


def reliability_rows(
    confidence: ArrayLike, correct: ArrayLike, *, bins: int = BINS, binning: Binning = "equal_width"
) -> list[dict[str, Any]]:
    """Return a reliability diagram (DeGroot and Fienberg 1983) of one sample [N] as rows for `publish_curve`.

    Columns: bin (from 0), low and high (its edges, high included), confidence (mean), accuracy, count. Empty bins have no row.
    Raises as `ece`.
    """
    confidence, correct = check_confidence(confidence, correct)
    if confidence.ndim != 1:
        raise ValueError(f"a diagram shows one sample [N], not shape {confidence.shape}; draw one for each")
    count, mean_confidence, accuracy = _bin_means(confidence, correct, _bin_of(confidence, bins, binning), bins)
    edges = np.concatenate([[0.0], _inner_edges(confidence, bins, binning), [1.0]])
    columns = {"low": edges[:-1], "high": edges[1:], "confidence": mean_confidence, "accuracy": accuracy}
    return [
        {"bin": int(b), **{name: float(column[b]) for name, column in columns.items()}, "count": int(count[b])}
        for b in np.flatnonzero(count)
    ]


def _inner_edges(confidence: FloatArray, bins: int, binning: Binning) -> FloatArray:
    """Return the upper edges of all bins but the last: [bins - 1], or [..., bins - 1] where they follow the answers."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    inner = np.arange(1, bins)
    if binning == "equal_width":
        return np.asarray(inner / bins, dtype=np.float64)
    last_of_bin = -(-inner * confidence.shape[-1] // bins) - 1
    return np.sort(confidence, axis=-1)[..., last_of_bin]


def _bin_of(confidence: FloatArray, bins: int, binning: Binning) -> IntArray:
    """Return the bin of each answer, [..., N]."""
    edges = _inner_edges(confidence, bins, binning) + (ROUNDING if binning == "equal_width" else 0.0)
    index = np.zeros(confidence.shape, dtype=np.intp)
    for edge in np.moveaxis(edges, -1, 0):
        index += confidence > edge[..., None]
    return index


def _sums(values: FloatArray, index: IntArray, bins: int) -> FloatArray:
    """Add up values [..., N] bin by bin: [..., bins]."""
    rows = index.reshape(-1, index.shape[-1])
    place = rows + bins * np.arange(len(rows))[:, None]
    sums = np.bincount(place.ravel(), weights=values.ravel(), minlength=bins * len(rows))
    return np.asarray(sums, dtype=np.float64).reshape(*index.shape[:-1], bins)


def _bin_means(
    confidence: FloatArray, correct: FloatArray, index: IntArray, bins: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return count, mean confidence and accuracy of each bin, [..., bins]; means of an empty bin are 0."""
    count = _sums(np.ones_like(confidence), index, bins)
    filled = np.maximum(count, 1)
    return count, _sums(confidence, index, bins) / filled, _sums(correct, index, bins) / filled
