"""All scores of confidences against answers under the names by which every stage publishes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike

from tasks.evaluate.calibration.binned import BINS, brier_parts, ece
from tasks.evaluate.calibration.pointwise import brier, mace, nll
from tasks.evaluate.calibration.ranking import auroc, average_precision
from tasks.evaluate.calibration.samples import check_confidence
from tasks.evaluate.calibration.selective import aurc, excess_aurc


def calibration_scores(confidence: ArrayLike, correct: ArrayLike, *, bins: int = BINS) -> dict[str, float]:
    """Return the scores of one sample [N] as flat numbers for `publish_json`; one that does not exist is left out, never 0.

    Units as in the functions of the same names. Raises ValueError for answers that `check_confidence` refuses.
    """
    confidence, correct = check_confidence(confidence, correct)
    parts = brier_parts(confidence, correct, bins=bins)
    scores: Mapping[str, SupportsFloat] = {
        "answers": confidence.size,
        "accuracy": np.mean(correct),
        "mean_confidence": np.mean(confidence),
        "ece": ece(confidence, correct, bins=bins),
        "ece_equal_mass": ece(confidence, correct, bins=bins, binning="equal_mass"),
        "brier": brier(confidence, correct),
        "brier_reliability": parts.reliability,
        "brier_resolution": parts.resolution,
        "brier_uncertainty": parts.uncertainty,
        "nll": nll(confidence, correct),
        "mace": mace(confidence, correct),
        "auroc": auroc(confidence, correct),
        "average_precision": average_precision(confidence, correct),
        "aurc": aurc(confidence, correct),
        "excess_aurc": excess_aurc(confidence, correct),
    }
    return {name: float(score) for name, score in scores.items() if not math.isnan(score)}
