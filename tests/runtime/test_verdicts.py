"""The texts of R-Tuning: where an answer ends, what a refusal is, and verdicts that a tokenizer must tell apart."""

import pytest

from tasks.runtime.params import UserError
from tasks.runtime.verdicts import REFUSALS, are_refusals, encode_verdicts, ended, first_sentence
from tests.speaker import tokenizer
from tests.tiny import word_tokenizer


@pytest.mark.parametrize(
    ("answer", "first"), [("Paris", "Paris"), ("Paris.", "Paris"), (".", ""), ("", ""), (" Paris . It is", "Paris")]
)
def test_an_answer_is_cut_at_its_first_full_stop_and_only_there(answer, first):
    """The reference code loses the last letter of "Paris", and divides by zero after "."."""
    assert first_sentence(answer) == first
    assert ended(first) == f"{first}."
    assert ended(ended(first)) == ended(first)


def test_the_sixteen_refusals_are_recognised_and_answers_are_not():
    words = tokenizer()
    assert len(set(REFUSALS)) == 16
    assert all(are_refusals(words, REFUSALS))
    assert all(are_refusals(words, [f"{text.lower()} . w1 w2" for text in REFUSALS[:4]]))
    assert not any(are_refusals(words, ["w1", "", "the answer is w1", "w1 the answer is unknown"]))


def test_verdicts_that_the_tokenizer_writes_alike_are_refused():
    with pytest.raises(UserError, match="same tokens"):
        encode_verdicts(word_tokenizer())
