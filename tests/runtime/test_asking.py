"""Questions put to a model: letters by their probabilities, confidence to the first full stop, and how sure it says it is."""

import math

import pytest
import torch

from tasks.runtime import verdicts
from tasks.runtime.asking import confidence, resumable
from tasks.runtime.lease import Lease
from tasks.runtime.probe import Answer
from tasks.runtime.stage import Run
from tasks.runtime.verdicts import REFUSALS, SENTENCE, are_refusals
from tests.speaker import LETTERS, ask, questions, tokenizer


def probability(asked, text: str, after: str) -> float:
    """Return P(after | text) of a plain text by the definition, token by token."""
    known = asked.tokenizer(text)["input_ids"]
    total = 0.0
    for token in asked.tokenizer(after)["input_ids"]:
        with torch.no_grad():
            total += float(asked.model(torch.tensor([known])).logits[0, -1].log_softmax(-1)[token])
        known = [*known, token]
    return math.exp(total)


def test_letters_are_chosen_by_their_probability():
    asked, given = ask(), [question for question in questions(40) if question.choices]
    for question, reply in zip(given, asked.replies(given), strict=True):
        odds = [probability(asked, question.prompt, letter) for letter in LETTERS]
        assert reply["text"] == LETTERS[odds.index(max(odds))]
        assert reply["confidence"] == pytest.approx(max(odds) / sum(odds), rel=1e-4)


@pytest.mark.parametrize(("words", "counted"), [("w1 w2", 2), ("w1 w2 .", 2), ("w1 . w2 w3", 1), (".", 0), ("", 0), ("w1", 1)])
def test_confidence_is_the_geometric_mean_up_to_the_first_full_stop(words, counted):
    """Answers "Paris", "Paris.", "." and "" among them: no last letter is lost, and nothing is divided by zero."""
    logprobs = [-0.5 * (n + 1) for n in range(len(words.split()))]
    answer = Answer(tokenizer()(words)["input_ids"], logprobs, words)
    expected = math.prod(math.exp(logprob) for logprob in logprobs[:counted]) ** (1 / counted) if counted else 0
    assert confidence(tokenizer(), answer) == pytest.approx(expected)


def test_sure_is_between_the_whole_verdicts_after_the_answer_as_training_writes_it():
    asked, given = ask(), questions(4)
    for question, text, sure in zip(given, ["w1", "w2. w3", ".", ""], asked.sure(given, ["w1", "w2. w3", ".", ""]), strict=True):
        told = f"{question.prompt} {text.split('.')[0]} . {SENTENCE}"
        odds = [probability(asked, told, verdict) for verdict in ("sure .", "unsure .")]
        assert 0 < sure < 1
        assert sure == pytest.approx(odds[0] / sum(odds), rel=1e-4)


def test_verdicts_swapped_give_what_is_left_to_one(monkeypatch):
    asked, given = ask(), questions(6)
    before = asked.sure(given, ["w1"] * 6)
    monkeypatch.setattr(verdicts, "SURE", verdicts.UNSURE)
    monkeypatch.setattr(verdicts, "UNSURE", "sure.")
    assert asked.sure(given, ["w1"] * 6) == pytest.approx([1 - sure for sure in before])


def test_verdicts_that_begin_with_the_same_token_are_told_apart(monkeypatch):
    """Read from the first token alone, both would have one probability and `sure` be one half throughout."""
    monkeypatch.setattr(verdicts, "SURE", "quite sure.")
    monkeypatch.setattr(verdicts, "UNSURE", "quite unsure.")
    asked, (question,) = ask(), questions(1)
    (sure,) = asked.sure([question], ["w1"])
    told = f"{question.prompt} w1 . {SENTENCE}"
    odds = [probability(asked, told, verdict) for verdict in ("quite sure .", "quite unsure .")]
    assert sure == pytest.approx(odds[0] / sum(odds), rel=1e-4)
    assert abs(sure - 0.5) > 0.01


def test_an_answer_that_is_forced_begins_like_no_refusal():
    asked, given = ask(), [question for question in questions(60) if not question.choices]
    first = {asked.tokenizer(refusal)["input_ids"][0] for refusal in REFUSALS}
    texts = [reply["text"] for reply in asked.replies(given, forced=True)]
    assert not any(set(asked.tokenizer(text)["input_ids"][:1]) & first for text in texts)
    assert not any(are_refusals(asked.tokenizer, texts))


def test_replies_do_not_depend_on_the_order_of_the_questions(tmp_path, monkeypatch):
    """Bit for bit: questions are asked in an order of their own."""
    monkeypatch.chdir(tmp_path)
    given, asked = questions(30), ask()

    def replies(run: str, order):
        return dict(
            zip([q.id for q in order], resumable(Run("test", run, Lease(tmp_path, "x")), "q", order, asked.replies), strict=True)
        )

    assert replies("one", given) == replies("two", given[::-1]) == replies("three", given[7:] + given[:7])


def test_sampled_answers_are_first_sentences():
    drawn = ask(tokens=12).sampled(questions(20), 4, 1.5, 0)
    assert all(len(texts) == 4 for texts in drawn)
    assert not any("." in text for texts in drawn for text in texts)


def test_a_refusal_is_heard_out_however_short_answers_are(monkeypatch):
    """Cut at the length of an answer, a refusal would pass for one."""
    seen = {}
    monkeypatch.setattr("tasks.runtime.asking.answers", lambda *args, **more: seen.update(more) or [])
    asked = ask(tokens=1)
    asked.texts([])
    assert seen["max_new_tokens"] >= max(len(asked.tokenizer(f"{refusal}.")["input_ids"]) for refusal in REFUSALS)
