"""A stated confidence: written and read back, never invented, and paid so that the truth pays best."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.runtime.confidence import (
    Response,
    add_words,
    is_correct,
    name_clusters,
    named,
    normalise,
    parse_confidence,
    parse_response,
    reward,
    unknown_words,
    without_rationale,
    write_response,
)
from tests.tiny import llama, word_tokenizer

TABLE = {
    "Confidence: 8 or 9": 8,
    "Confidence: high": None,
    "Confidence: 85": None,
    "Confidence: 10": 10,
    "Confidence:0": 0,
    "confidence : 7": 7,
    "Confidence: 8/10": 8,
    "Confidence: -3": None,
    "Confidence: 7.5": None,
    "Confidence: w4": None,
    "Confidence: 3\nno, wait. Confidence: 6": 6,
    "Confidence: 3\nno, wait. Confidence: none": None,
    "I am 9 sure": None,
    "overconfidence: 4": None,
    "": None,
}


@pytest.mark.parametrize(("text", "number"), TABLE.items())
def test_the_first_number_after_the_last_field_counts_and_a_failure_is_never_0(text, number):
    assert parse_confidence(text) == number


@settings(max_examples=100)
@given(st.text())
def test_whatever_is_read_from_any_text_stands_in_it_as_a_number_of_the_scale(text):
    for said in (text, f"Confidence: {text}"):
        found = parse_confidence(said)
        assert found is None or (0 <= found <= 10 and any(char.isdecimal() for char in said))


WORDS = st.text("abcdefg ", min_size=1).filter(lambda text: text.strip())


@settings(max_examples=50)
@given(WORDS, WORDS, st.integers(0, 10), st.sampled_from(["", "step by step\nand on"]))
def test_what_is_written_is_read_back(answer, rationale, confidence, reasoning):
    text = write_response(answer, rationale, confidence, reasoning)
    assert parse_response(text) == Response(answer.strip(), rationale.strip(), confidence)
    assert parse_response(text.replace("\n", " ").replace(":", " :").lower()).confidence == confidence


@settings(max_examples=50)
@given(WORDS, WORDS, st.integers(0, 10))
def test_an_answer_that_no_field_leads_is_what_stands_first(answer, rationale, confidence):
    text = write_response(answer, rationale, confidence, led=False)
    assert "Answer" not in text
    for written in (text, text.replace("\n", " ")):
        assert parse_response(written) == Response(answer.strip(), rationale.strip(), confidence)
    assert parse_response(without_rationale(text)) == Response(answer.strip(), None, confidence)


def test_a_response_without_its_fields_is_all_answer():
    assert parse_response("the answer is perhaps 10") == Response("the answer is perhaps 10", None, None)
    assert parse_response("Answer:\nConfidence: 2") == Response(None, None, 2)
    assert parse_response("Answer: red\nand more\nConfidence: ?") == Response("red", None, None)


def test_correct_is_equal_after_normalising_and_not_to_contain():
    assert not is_correct("true or false", "true")
    assert not is_correct(parse_response("the answer is true or false").answer, "true")
    assert is_correct(" True. ", "true")
    assert not is_correct(None, "none")
    assert normalise("The  U.S.,\nnow!") == "the u s now"


@pytest.mark.parametrize(
    ("correct", "level", "value"), [(1, 10, 1), (1, 5, 0.5), (1, 0, -1), (0, 0, 1), (0, 5, 0.5), (0, 10, -1)]
)
def test_the_quadratic_reward_has_its_table(correct, level, value):
    assert reward(bool(correct), level) == pytest.approx(value)


@pytest.mark.parametrize("tenths", range(11))
def test_the_best_confidence_is_the_chance_of_being_right(tenths):
    p = tenths / 10

    def expected(level, kind):
        return p * reward(True, level, kind) + (1 - p) * reward(False, level, kind)

    assert max(range(11), key=lambda level: expected(level, "quadratic")) == tenths
    if tenths != 5:
        assert max(range(11), key=lambda level: expected(level, "linear")) == (10 if tenths > 5 else 0)


def test_what_cannot_be_read_earns_the_least_under_both():
    for kind in ("quadratic", "linear"):
        worst = min(reward(right, level, kind) for right in (True, False) for level in range(11))
        assert reward(True, None, kind) == reward(False, None, kind) == -1 <= worst


def test_a_rationale_names_the_others():
    assert named(name_clusters("red", ["blue", "pale green"]), []) == ["red", "blue", "pale green"]
    assert named(name_clusters("red", []), ["red", "blue"]) == ["red"]
    assert named("I hesitate: it may be Pale Green, or reddish.", ["red", "pale green"]) == ["pale green"]


def test_words_a_word_tokenizer_lacks_become_tokens_and_no_other_logit_moves():
    tokenizer, model = word_tokenizer(), llama()
    texts = [write_response("w1", "torn between w1 and w2", level) for level in (7, 10)]
    words = unknown_words(tokenizer, texts)
    assert words == ["10", "7", ":", "Answer", "Confidence", "Self-reflection", "and", "between", "torn"]
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    add_words(model, tokenizer, words)
    torch.testing.assert_close(model(ids).logits[..., : before.shape[-1]], before)
    assert tokenizer.unk_token_id not in tokenizer(texts[1])["input_ids"]
    assert unknown_words(tokenizer, texts) == []
    assert math.isfinite(float(model(torch.tensor([[len(tokenizer) - 1]])).logits.sum().detach()))
    assert model.config.vocab_size == len(tokenizer)
    new = model.get_input_embeddings().weight[-len(words) :].detach()
    assert torch.pdist(new).min() > 0.1  # each its own
    again = llama()
    add_words(again, word_tokenizer(), words)
    assert torch.equal(again.get_input_embeddings().weight[-len(words) :], new)
