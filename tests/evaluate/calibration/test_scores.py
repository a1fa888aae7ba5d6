"""The published scores: flat numbers, and a score that does not exist is missing rather than 0."""

import json

import pytest
from hypothesis import given

from tasks.evaluate.calibration.binned import ece
from tasks.evaluate.calibration.scores import calibration_scores
from tasks.runtime.publish import publish_json
from tests.evaluate.calibration.answers import random_answers, samples


@given(samples())
def test_all_scores_are_numbers_of_this_sample(sample):
    scores = calibration_scores(*sample)
    json.dumps(scores, allow_nan=False)
    assert scores["answers"] == len(sample[0])
    assert scores["accuracy"] == pytest.approx(sample[1].mean())
    assert scores["ece"] == ece(*sample)
    assert ("auroc" in scores) == (0 < sample[1].sum() < len(sample[1]))
    assert ("average_precision" in scores) == bool(sample[1].any())


def test_the_number_of_bins_goes_to_every_binned_score():
    confidence, correct = random_answers(300)
    scores = calibration_scores(confidence, correct, bins=3)
    assert scores["ece"] == ece(confidence, correct, bins=3)
    assert scores["ece_equal_mass"] == ece(confidence, correct, bins=3, binning="equal_mass")
    assert scores["brier_reliability"] < calibration_scores(confidence, correct, bins=300)["brier_reliability"]


def test_scores_of_one_class_can_be_published(tmp_path):
    publish_json(tmp_path / "scores.json", calibration_scores([0.9, 0.8], [True, True]))
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert "auroc" not in scores
    assert scores["accuracy"] == 1
