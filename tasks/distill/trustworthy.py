"""Recalibration of a teacher's top-k probabilities, and the choice of its one number by validation ECE.

Fine-tuning makes a teacher too sure of its first choice, and cutting off the tail makes it surer still. FIRST (trustworthy
maximisation) takes a softmax over the k probabilities themselves, divided by c; the other ways are what it is compared with.
All take probabilities [N, k], likeliest first, and return a distribution over these k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Array = NDArray[np.float64]
Way = Literal["trustworthy", "temperature", "smoothing", "renormalised"]
FLOOR = 1e-6
"""Least probability before a logarithm."""
ROUNDING = 1e-6
"""How far single precision may carry a confidence over the edge of its bin."""
BINS = 10


def trustworthy(probs_NK: Array, c: float) -> Array:
    """Return `P'(i) = exp(P(i)/c) / sum_j exp(P(j)/c)`: a softmax of probabilities, not of logits. Small c sharpens."""
    return _softmax(np.asarray(probs_NK, dtype=np.float64) / c)


def temperature(probs_NK: Array, tau: float) -> Array:
    """Return `softmax(log P / tau)`: what temperature scaling of the teacher's logits does to the k (Guo et al. 2017)."""
    return _softmax(np.log(np.maximum(probs_NK, FLOOR)) / tau)


def smoothing(probs_NK: Array, amount: float) -> Array:
    """Return the first probability less `amount` and the others each more by an equal share of it, renormalised over the k.

    In probability space and of the teacher alone. Where the first is ahead by less than is moved, the order turns around: this
    is the compared method as it was published, not a repair of it.
    """
    return renormalised(np.maximum(moved(probs_NK, amount), FLOOR))


def moved(probs_NK: Array, amount: float) -> Array:
    """Return the probabilities with `amount` moved from the first to the others, before clipping and renormalising."""
    probs_NK = np.asarray(probs_NK, dtype=np.float64)
    k = probs_NK.shape[-1]
    share = np.full(k, amount / max(1, k - 1))
    share[0] = -amount
    return probs_NK + share


def renormalised(probs_NK: Array, _: float = 0.0) -> Array:
    """Return `P / sum_j P`: the raw top-k, cut off and no more."""
    probs_NK = np.maximum(np.asarray(probs_NK, dtype=np.float64), 0)
    shares: Array = probs_NK / probs_NK.sum(-1, keepdims=True)
    return shares


def _softmax(scores_NK: Array) -> Array:
    powers = np.exp(scores_NK - scores_NK.max(-1, keepdims=True))
    shares: Array = powers / powers.sum(-1, keepdims=True)
    return shares


WAYS: dict[Way, tuple[Callable[[Array, float], Array], Sequence[float]]] = {
    "trustworthy": (trustworthy, [round(0.02 * n, 2) for n in range(1, 51)]),
    "temperature": (temperature, [round(0.05 * n, 2) for n in range(10, 61)]),
    "smoothing": (smoothing, [0.1]),
    "renormalised": (renormalised, [0.0]),
}
"""Every way with the values tried. ECE is not unimodal in c and a value costs nothing, so the whole grid is searched."""


@dataclass(frozen=True)
class Choice:
    """The value of a way with the least validation ECE; of equals the first."""

    value: float
    ece: float
    grid: list[tuple[float, float]]
    """Every value tried and its ECE."""


class Recalibration(BaseModel):
    """What the search found, as it is stored beside the raw probabilities."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    c: float
    """The value of FIRST: the same as `values.trustworthy`."""
    teacher: str
    """Hash of the teacher it holds for; never use it with another."""
    n_valid: int
    """Answers it was chosen on."""
    mass: float
    """Mean probability, of the whole vocabulary's 1, that the k tokens hold where an answer begins."""
    accuracy: float
    """How often the teacher's likeliest token is the one that the answer begins with."""
    ece_before: float
    """Of the teacher as it is: confidence is its probability under the whole vocabulary."""
    ece_after: float
    """Of FIRST at c."""
    values: dict[Way, float]
    """Best value of every way."""
    ece: dict[Way, float]
    """Its validation ECE."""
    grid: list[tuple[float, float]]
    """Every c tried and its ECE."""


def choose(way: Way, probs_NK: Array, correct_N: NDArray[np.bool_]) -> Choice:
    """Search the grid of a way: confidence is the first recalibrated probability, `correct_N` whether the first token is gold."""
    change, values = WAYS[way]
    grid = [(value, ece(change(probs_NK, value)[:, 0], correct_N)) for value in values]
    value, least = min(grid, key=lambda tried: tried[1])
    return Choice(value, least, grid)


def ece(confidence_N: Array, correct_N: NDArray[np.bool_] | Array) -> float:
    """Return the expected calibration error in [0, 1]: `sum_m |B_m|/n |acc(B_m) - conf(B_m)|` over 10 equal, right-closed bins.

    A confidence exactly on an edge is in the lower bin, and 0 in the first. `correct_N` may hold known chances of being right.
    """
    off = np.bincount(_bin_of(confidence_N), weights=np.asarray(confidence_N, dtype=np.float64) - correct_N, minlength=BINS)
    return float(np.abs(off).sum() / len(confidence_N))


def reliability(confidence_N: Array, correct_N: NDArray[np.bool_] | Array) -> list[dict[str, float]]:
    """Return what `ece` adds up, bin by bin: `bin` from 0, mean `confidence` and `accuracy`, `count`; no row for an empty bin."""
    confidence_N, correct_N = np.asarray(confidence_N, dtype=np.float64), np.asarray(correct_N, dtype=np.float64)
    index_N = _bin_of(confidence_N)
    return [
        {
            "bin": int(bin_),
            "confidence": float(confidence_N[index_N == bin_].mean()),
            "accuracy": float(correct_N[index_N == bin_].mean()),
            "count": int((index_N == bin_).sum()),
        }
        for bin_ in np.unique(index_N)
    ]


def _bin_of(confidence_N: Array) -> NDArray[np.intp]:
    return np.searchsorted(np.arange(1, BINS) / BINS + ROUNDING, np.asarray(confidence_N, dtype=np.float64))
