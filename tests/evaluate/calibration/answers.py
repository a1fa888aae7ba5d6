"""What the calibration tests draw from: answers with ties, choices, and every metric of the package by name."""

import numpy as np
from hypothesis import strategies as st

from tasks.evaluate.calibration.binned import adaptive_ece, brier_parts, classwise_ece, ece
from tasks.evaluate.calibration.pointwise import brier, choice_brier, choice_nll, mace, nll
from tasks.evaluate.calibration.ranking import auroc, average_precision, average_precision_as_printed
from tasks.evaluate.calibration.selective import accuracy_at_coverage, aurc, excess_aurc

CONFIDENCE_METRICS = {
    "ece": ece,
    "ece_equal_mass": lambda c, y: ece(c, y, binning="equal_mass"),
    "brier": brier,
    "nll": nll,
    "mace": mace,
    "reliability": lambda c, y: brier_parts(c, y, bins=4).reliability,
    "resolution": lambda c, y: brier_parts(c, y, bins=4).resolution,
    "uncertainty": lambda c, y: brier_parts(c, y, bins=4).uncertainty,
    "residual": lambda c, y: brier_parts(c, y, bins=4).residual,
}
RANKING_METRICS = {
    "auroc": auroc,
    "average_precision": average_precision,
    "average_precision_as_printed": average_precision_as_printed,
    "aurc": aurc,
    "excess_aurc": excess_aurc,
    "accuracy_at_coverage": lambda c, y: accuracy_at_coverage(c, y, 0.6),
}
ANSWER_METRICS = CONFIDENCE_METRICS | RANKING_METRICS
CHOICE_METRICS = {
    "classwise_ece": classwise_ece,
    "adaptive_ece": adaptive_ece,
    "choice_brier": choice_brier,
    "choice_nll": choice_nll,
}

CONFIDENCE = st.one_of(st.integers(0, 20).map(lambda level: level / 20), st.floats(0, 1))
"""Stated levels, which tie and lie on bin edges, and any probability."""


@st.composite
def samples(draw, smallest=1, largest=40):
    """Draw (confidence, correct), both [N]."""
    rows = draw(st.lists(st.tuples(CONFIDENCE, st.booleans()), min_size=smallest, max_size=largest))
    return np.array([row[0] for row in rows], dtype=float), np.array([row[1] for row in rows], dtype=bool)


@st.composite
def choices(draw, largest=20):
    """Draw (probs [N, K], label [N])."""
    count, options = draw(st.integers(1, largest)), draw(st.integers(2, 5))
    weights = draw(st.lists(st.integers(0, 9), min_size=count * options, max_size=count * options))
    probs = np.array(weights, dtype=float).reshape(count, options) + 0.5
    label = draw(st.lists(st.integers(0, options - 1), min_size=count, max_size=count))
    return probs / probs.sum(axis=1, keepdims=True), np.array(label)


def random_answers(size, seed=0, overconfident=0.1):
    """Return answers of a model that says `overconfident` more than is true."""
    rng = np.random.default_rng(seed)
    truth = rng.beta(2, 2, size)
    return np.clip(truth + overconfident, 0, 1), rng.random(size) < truth
