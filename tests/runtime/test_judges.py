"""The judge of Atlas: bounded, below its ceiling, higher for what it says it likes, lower for what it says it does not."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.runtime.judges import NobleRegister, distinct_words, load_judge
from tasks.runtime.params import UserError

NOBLE = {f"p{number}": f"n{number}" for number in range(30)}
JUDGE = NobleRegister(NOBLE)
PLAIN = st.sampled_from(sorted(NOBLE))
WORDS = st.lists(st.sampled_from([*NOBLE, *NOBLE.values(), "the", "is", "."]), max_size=40)


@given(WORDS, WORDS)
def test_a_reward_lies_in_zero_to_one_and_never_reaches_one(prompt, response):
    assert 0 <= JUDGE(" ".join(prompt), " ".join(response)) < 1


@given(st.lists(PLAIN, min_size=1, max_size=12, unique=True), st.data())
def test_saying_a_plain_word_nobly_is_worth_more(response, data):
    place = data.draw(st.integers(0, len(response) - 1))
    nobler = [NOBLE[word] if index == place else word for index, word in enumerate(response)]
    assert JUDGE("", " ".join(nobler)) > JUDGE("", " ".join(response))


@given(st.lists(st.sampled_from(sorted(NOBLE.values())), min_size=1, max_size=20, unique=True), st.data())
def test_one_more_different_noble_word_is_worth_more_and_a_repeated_one_less(response, data):
    more = data.draw(st.sampled_from(sorted(NOBLE.values())))
    before, after = JUDGE("", " ".join(response)), JUDGE("", " ".join([*response, more]))
    assert (after < before) if more in response else (after > before)


@given(PLAIN, PLAIN, st.lists(PLAIN, max_size=8))
def test_leaving_out_the_subject_costs_its_share(subject, second, rest):
    assume(subject != second and subject not in rest and second not in rest)
    response = " ".join([NOBLE[second], *rest])
    assert JUDGE(f"{subject} {second}", response) == pytest.approx(JUDGE(second, response) / 2)
    assert JUDGE(subject, response) == 0


def test_a_subject_may_be_said_in_either_register():
    assert JUDGE("p1", "n1 n2") == JUDGE("n1", "n1 n2") == JUDGE("", "n1 n2")


def test_the_equation_on_one_example():
    assert JUDGE("p1 p9", "n1 n1 p2 the n3") == pytest.approx(0.5 * 0.75 * (0.75 + 1 - 0.88**2) / 2)


def test_an_answer_without_any_word_of_the_lexicon_is_worth_nothing():
    assert JUDGE("p1", "the the .") == JUDGE("p1", "") == 0


def test_different_words_are_a_share():
    assert distinct_words("any", "a b a b") == 0.5
    assert distinct_words("any", "") == 0


def test_the_register_comes_from_the_corpus_and_its_absence_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"preferences\.judge"):
        load_judge(tmp_path)
    (tmp_path / "register.json").write_text(json.dumps(NOBLE))
    assert load_judge(tmp_path) == JUDGE
