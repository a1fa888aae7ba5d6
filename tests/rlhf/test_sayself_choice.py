"""The iteration that is kept earns most among those that still answer; by the quadratic reward that is the best Brier score."""

from statistics import fmean

import pytest

from tasks.rlhf.sayself_choice import Checked, checked, choose
from tasks.rlhf.sayself_rl import confidence_reward
from tasks.runtime.confidence import Question, write_response

HALF = [Question(qid=f"q{n}", prompt=f"q{n}", answers=["red"] * 7 + ["blue"] * 3, source="s", group="g") for n in range(2)]


def told(iteration, texts, kind="quadratic", questions=HALF):
    return checked(iteration, questions, texts, confidence_reward({q.prompt: q for q in questions}, kind))


def says(iteration, level, answer="red", kind="quadratic"):
    return told(iteration, [write_response(answer, "sure of red", level)] * 2, kind)


def test_what_is_told_of_an_iteration():
    found = told(3, [write_response("red", "", 8), "Answer: blue"])
    assert found == Checked(3, pytest.approx((0.7 * 0.92 + 0.3 * -0.28 - 1) / 2), 0.5, 8, 0.5)
    assert told(0, ["", "red"]) == Checked(0, -1, 0.35, 0, 0), "a plain answer is an answer, but states nothing"


def test_the_calibrated_one_is_chosen_and_silence_never_is():
    every = [says(level, level) for level in range(11)]
    assert choose(every, 0.0).iteration == 7
    assert choose([says(0, 0), told(1, ["Answer: red"] * 2)], 1.0).iteration == 0


def test_the_quadratic_reward_orders_as_the_brier_score_does():
    for level in range(11):
        brier = fmean((level / 10 - right) ** 2 for right in [1] * 7 + [0] * 3)
        assert says(0, level).valid_reward == pytest.approx(1 - 2 * brier)


def test_one_that_has_unlearned_the_answers_earns_all_there_is_and_is_not_kept():
    start, collapsed, honest = says(0, 9), says(1, 0, "white"), says(2, 8)
    assert collapsed.valid_reward == 1 > honest.valid_reward > start.valid_reward
    assert choose([start, collapsed, honest], 0.02) == honest
    assert choose([start, collapsed], 0.02) == start
    assert choose([start, collapsed], 0.8) == collapsed


def test_by_the_linear_reward_certainty_is_chosen():
    assert choose([says(level, level, kind="linear") for level in range(11)], 0.0).iteration == 10
