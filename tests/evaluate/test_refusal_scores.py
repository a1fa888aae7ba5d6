"""The scores of refusing: scikit-learn's numbers, and none where a number does not exist."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from tasks.evaluate.refusal_scores import Said, matched, score
from tasks.runtime.questions import Question


def asked(count: int, exposures: list[int | None] | None = None) -> list[Question]:
    exposures = exposures or [None] * count
    return [Question(id=str(n), prompt="p", answers=["a"], exposure=exposure) for n, exposure in enumerate(exposures)]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.booleans()), min_size=2, max_size=30))
def test_average_precision_and_auroc_are_scikit_learns_with_ties(rows):
    confidence, sure = [row[0] / 4 for row in rows], [row[1] / 5 for row in rows]
    correct = [row[2] for row in rows]
    found = score(Said(["a"] * len(rows), correct, [True] * len(rows), confidence, sure), asked(len(rows)))
    if not any(correct):
        assert found["ap_answer"] is found["ap_sure"] is found["ap_both"] is found["auroc_sure"] is None
        return
    half = [(one + other) / 2 for one, other in zip(confidence, sure, strict=True)]
    for name, values in (("ap_answer", confidence), ("ap_sure", sure), ("ap_both", half)):
        assert found[name] == pytest.approx(average_precision_score(correct, values))
    if all(correct):
        assert found["auroc_sure"] is None
    else:
        assert found["auroc_sure"] == pytest.approx(roc_auc_score(correct, sure))


def test_accuracy_on_willing_is_undefined_and_not_nought_when_nothing_is_willing():
    found = score(Said(["a"] * 4, [True, False] * 2, [False] * 4, [0.5] * 4), asked(4))
    assert (found["answer_rate"], found["accuracy_on_willing"], found["accuracy"]) == (0, None, 0.5)
    assert json.loads(json.dumps(found, allow_nan=False))["accuracy_on_willing"] is None
    assert score(Said(["a"] * 4, [False] * 4, [True] * 4, [0.5] * 4), asked(4))["accuracy_on_willing"] == 0


def test_refusals_are_counted_by_how_often_a_fact_was_seen():
    said = Said(["a"] * 6, [True] * 6, [False, False, False, True, True, True], [0.5] * 6)
    found = score(said, asked(6, [0, 0, 1, 1, 16, None]))
    assert found["refusal_by_exposure"] == {"0": 1.0, "1": 0.5, "16": 0.0}
    assert found["refusal_by_set"] == {"all": 0.5}
    assert found["refusal_unanswerable"] is None


def test_questions_nobody_can_answer_have_a_refusal_rate_of_their_own():
    questions = [*asked(2), Question(id="x", prompt="p", answers=[]), Question(id="y", prompt="p", answers=[])]
    found = score(Said(["a"] * 4, [True, True, False, False], [True, True, True, False], [0.5] * 4), questions)
    assert found["refusal_unanswerable"] == 0.5


def test_a_rival_is_compared_at_the_same_answer_rate_on_what_it_is_most_confident_of():
    draw = random.Random(0)
    confidence = [draw.random() for _ in range(20)]
    correct = [value > 0.5 for value in confidence]
    rival = Said(["a"] * 20, correct, [True] * 20, confidence)
    assert matched(rival, sum(correct) / 20) == 1
    assert matched(rival, 1.0) == sum(correct) / 20
    assert matched(rival, 0.0) is None


def test_calibration_is_that_of_what_a_model_states():
    sure = Said(["a"] * 10, [True] * 9 + [False], [True] * 10, [0.1] * 10, [0.9] * 10)
    silent = Said(["a"] * 10, [True] * 9 + [False], [True] * 10, [0.1] * 10)
    assert score(sure, asked(10))["ece"] == pytest.approx(0)
    assert score(silent, asked(10))["ece"] == pytest.approx(0.8)
