"""The scores of refusing: scikit-learn's numbers, and none where a number does not exist."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from tasks.evaluate.refusal_scores import Said, matched, measure, part, refused_below, score
from tasks.runtime.questions import Question


def asked(count: int, exposures: list[int | None] | None = None) -> list[Question]:
    exposures = exposures or [None] * count
    return [Question(id=str(n), prompt="p", answers=["a"], exposure=exposure) for n, exposure in enumerate(exposures)]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.booleans()), min_size=2, max_size=30))
def test_average_precision_and_auroc_are_scikit_learns_with_ties(rows):
    confidence, sure = [row[0] / 4 for row in rows], [row[1] / 5 for row in rows]
    correct = [row[2] for row in rows]
    found = score(Said(["a"] * len(rows), correct, [True] * len(rows), confidence, sure))
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
    found = score(Said(["a"] * 4, [True, False] * 2, [False] * 4, [0.5] * 4))
    assert (found["answer_rate"], found["accuracy_on_willing"], found["accuracy"]) == (0, None, 0.5)
    assert json.loads(json.dumps(found, allow_nan=False))["accuracy_on_willing"] is None
    assert score(Said(["a"] * 4, [False] * 4, [True] * 4, [0.5] * 4))["accuracy_on_willing"] == 0


def test_refusals_are_counted_by_how_often_a_fact_was_seen():
    said = Said(["a"] * 6, [True] * 6, [False, False, False, True, True, True], [0.5] * 6)
    found = measure(said, asked(6, [0, 0, 1, 1, 16, None]))
    assert found["refusal_by_exposure"] == {"0": 1.0, "1": 0.5, "16": 0.0}
    assert found["refusal_by_set"] == {"all": 0.5}
    assert found["refusal_unanswerable"] is None


def test_questions_nobody_can_answer_have_a_refusal_rate_of_their_own():
    questions = [*asked(2), Question(id="x", prompt="p", answers=[]), Question(id="y", prompt="p", answers=[])]
    found = measure(Said(["a"] * 4, [True, True, False, False], [True, True, True, False], [0.5] * 4), questions)
    assert found["refusal_unanswerable"] == 0.5
    assert list(found["sets"]) == ["all"]


def test_sets_are_scored_apart_and_those_without_answers_not_at_all():
    home = [question.model_copy(update={"set": "in"}) for question in asked(4)]
    nobody = Question(id="x", prompt="p", answers=[], set="unheard")
    said = Said(["a"] * 5, [True, True, True, False, False], [True] * 4 + [False], [0.9, 0.8, 0.7, 0.6, 0.1])
    found = measure(said, [*home, nobody])
    assert list(found["sets"]) == ["in"]
    assert found["sets"]["in"] == score(part(said, [True] * 4 + [False]))
    assert (found["sets"]["in"]["accuracy"], found["sets"]["in"]["ap"]) == (0.75, 1.0)
    assert found["refusal_by_set"] == {"in": 0.0, "unheard": 1.0}


def test_ap_is_that_of_the_ranking_and_aurc_that_of_its_curve():
    said = Said(["a"] * 3, [True, False, True], [True] * 3, [0.2, 0.9, 0.4], [0.9, 0.1, 0.8])
    found = score(said)
    assert found["ap"] == found["ap_both"] == 1.0
    assert found["aurc"] == pytest.approx((0 + 0 + 1 / 3) / 3)
    assert found["ap_answer"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert score(Said(["a"] * 3, [False, True, True], [True] * 3, [0.9, 0.5, 0.4]))["ap_printed"] == pytest.approx(
        (0 + 1 / 2) / 2
    )


@pytest.mark.parametrize(("rate", "refused"), [(0.5, 2 / 3), (1.0, 1 / 3), (0.0, 1.0)])
def test_a_rival_as_reticent_refuses_below_the_confidence_of_as_many_answers(rate, refused):
    rival = Said(["a"] * 4, [True] * 4, [True] * 4, [0.9, 0.7, 0.5, 0.3])
    assert refused_below(rival, Said(["a"] * 3, [False] * 3, [True] * 3, [0.8, 0.4, 0.1]), rate) == pytest.approx(refused)


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
    assert score(sure)["ece"] == pytest.approx(0)
    assert score(silent)["ece"] == pytest.approx(0.8)
