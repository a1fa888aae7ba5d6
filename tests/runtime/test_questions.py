"""A question knows what is right; two of one id are refused."""

import pytest
from pydantic import ValidationError

from tasks.runtime.params import UserError
from tasks.runtime.questions import Question, is_right, read_questions
from tasks.runtime.records import write_records

FREE = Question(id="1", prompt="p", answers=["New York", "NYC"])


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("New York", True),
        ("it is new  york, I think", True),
        ("NYC.", True),
        ("New Yorker", False),
        ("York New", False),
        ("", False),
        (".", False),
    ],
)
def test_the_gold_string_must_occur_in_whole_words(answer, right):
    assert is_right(FREE, answer) is right


def test_a_choice_is_right_by_its_letter_and_not_by_the_text_of_the_first_option():
    """An item whose answer is C: position 1 of a row, which the reference code compares with, is option A's text."""
    asked = Question(id="1", prompt="p\nA. x\nB. y\nC. z\nAnswer:", answers=["C"], choices=["A", "B", "C"])
    assert [letter for letter in ["A", "B", "C", "x", "z"] if is_right(asked, letter)] == ["C"]


def test_nothing_is_right_where_nobody_can_answer():
    assert not is_right(Question(id="1", prompt="p", answers=[]), "anything")


@pytest.mark.parametrize("wrong", [{"answers": ["E"], "choices": ["A", "B"]}, {"answers": [" "]}, {"answers": ["x"], "id": ""}])
def test_a_question_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(ValidationError):
        Question(**{"id": "1", "prompt": "p", **wrong})


def test_an_id_twice_is_refused(tmp_path):
    write_records(tmp_path / "test.jsonl", [FREE, FREE])
    with pytest.raises(UserError, match=r"test.jsonl: 1 ids occur more than once, '1' first"):
        read_questions(tmp_path / "test.jsonl")


def test_the_stream_of_a_question_is_its_own():
    """So its samples stay the same when other questions are added before it."""
    streams = [Question(id=f"q{n}", prompt="p", answers=[]).stream for n in range(1000)]
    assert len(set(streams)) == 1000
    assert Question(id="q7", prompt="other", answers=["x"]).stream == streams[7]
