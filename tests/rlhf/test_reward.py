"""One interface for rewards: a model's folder or a function by name, and no broken one gets as far as an optimizer."""

import math

import pytest

from tasks.rlhf.reward import check_varied, find, from_function, load
from tasks.runtime.params import UserError


def test_a_function_is_called_by_its_name():
    reward = load("tasks.runtime.judges:distinct_words", folder=None, batch_size=1)
    assert reward([("Say", "one two"), ("Say", "one one")]) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tasks.runtime.judges", "write model, or package.module:function"),
        ("tasks.runtime.judges:best", "KeyError: 'best'"),
        ("tasks.nowhere:best", "No module named 'tasks.nowhere'"),
        ("tasks.runtime.judges:DECAY", "is a float, not a function"),
        ("", "write model"),
    ],
)
def test_a_name_without_a_function_is_refused(name, said):
    with pytest.raises(UserError, match=said):
        find(name)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_finite_number_is_refused_with_its_answer(value):
    with pytest.raises(UserError, match=r"reward odd gives .*prompt 'Say' and the answer 'yes'"):
        from_function(lambda prompt, completion: value, "odd")([("Say", "yes")])


def test_a_reward_that_throws_is_told_with_its_answer():
    with pytest.raises(UserError, match=r"reward odd fails with ZeroDivisionError.*answer 'yes'"):
        from_function(lambda prompt, completion: 1 / 0, "odd")([("Say", "yes")])


def test_a_reward_that_never_varies_is_refused():
    with pytest.raises(UserError, match="iteration 1: all 3 answers have the same reward 2"):
        check_varied([2.0, 2.0, 2.0], "iteration 1")
    check_varied([2.0, 1.0], "iteration 1")
    check_varied([2.0], "iteration 1")
