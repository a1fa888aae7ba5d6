"""R-Tuning learns answers and verdicts, not questions nor the fixed sentence, for as many steps as it says."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tasks.data.refusal_data import Row as Written
from tasks.runtime.asking import asker
from tasks.runtime.lease import Lease
from tasks.runtime.models import load_causal
from tasks.runtime.packing import IGNORED, packed_loss
from tasks.runtime.params import UserError
from tasks.runtime.questions import Question
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tasks.runtime.verdicts import SENTENCE, encode_answer
from tasks.train import rtuning
from tasks.train.rtuning import Params, Row, check_steps, encode, packed
from tests.speaker import speaker, tokenizer
from tests.tiny import save


def plain_tokenizer():
    words = tokenizer()
    words.chat_template = None
    return words


def row(prompt="w1 w2", answer="w3.", verdict: str | None = "sure.", qid="q") -> Row:
    return Row(prompt=prompt, answer=answer, verdict=verdict, qid=qid)


def example(given: Row, **changed):
    ((ids, labels),) = encode(plain_tokenizer(), [given], Params(max_length=64, **changed), Path("x"))
    return list(ids), list(labels)


def test_answer_verdict_and_end_are_learned_and_nothing_else():
    ids, labels = example(row())
    words = plain_tokenizer()
    told = [words.decode([token]) for token, label in zip(ids, labels, strict=True) if label != IGNORED]
    assert told == ["w3", ".", "sure", ".", "<eos>"]
    assert words.decode(ids, skip_special_tokens=True).split() == [
        *["w1", "w2", "w3", "."],
        *SENTENCE.lower().replace("?", " ?").split(),
        "sure",
        ".",
    ]
    assert all(label in (token, IGNORED) for token, label in zip(ids, labels, strict=True))


def test_the_sentence_is_learned_when_asked_to():
    masked, whole = example(row())[1], example(row(), learn_sentence=True)[1]
    sentence = encode_answer(plain_tokenizer(), SENTENCE)
    assert [label for label in whole if label != IGNORED][2:-3] == sentence
    assert sum(label != IGNORED for label in whole) == sum(label != IGNORED for label in masked) + len(sentence)


def test_a_row_without_a_verdict_ends_after_its_answer():
    ids, labels = example(row(verdict=None))
    assert ids[2:] == labels[2:] == [*encode_answer(plain_tokenizer(), "w3."), plain_tokenizer().eos_token_id]


def test_the_loss_does_not_count_the_questions_tokens():
    """With the same hidden context the loss is the same whatever labels the question could have had: they carry none.

    So the gradient at the output of every position that predicts a question's token is exactly zero.
    """
    model, kept = speaker(), []
    model.model.norm.register_forward_hook(lambda _, __, output: kept.append(output))
    batch = packed(encode(plain_tokenizer(), [row("w1 w2 w3 w4"), row("w5 w6")], Params(max_length=64), Path("x")), 64, 0)
    loss = packed_loss(model, batch)
    kept[0].retain_grad()
    loss.backward()
    moved = (kept[0].grad.abs().sum(-1) > 0)[0].tolist()
    first, second = len(example(row("w1 w2 w3 w4"))[0]), len(example(row("w5 w6"))[0])
    learned = [n + 1 for n, grad in enumerate(moved) if grad]
    gone = len(encode_answer(plain_tokenizer(), SENTENCE))
    expected = [n for start, size, asked in ((0, first, 4), (first, second, 2)) for n in _learned(start, size, asked, gone)]
    assert learned == expected


def _learned(start: int, size: int, asked: int, gone: int) -> list[int]:
    answer = [start + asked, start + asked + 1]
    return [*answer, *range(start + asked + 2 + gone, start + size)]


def test_the_tokens_of_training_are_those_that_evaluation_asks_after():
    """Prompt, answer, sentence: what stands before the verdict is the same to the token."""
    asked = asker(speaker(), tokenizer(), 4, 4)
    question, seen = Question(id="q", prompt="w1 w2", answers=["w3"]), []
    asked.model.register_forward_pre_hook(
        lambda _, args, more: seen.append((args or (more["input_ids"],))[0][0].tolist()), with_kwargs=True
    )
    asked.sure([question], ["w3"])
    ids, _ = example(row())
    assert seen[0] == ids[: len(seen[0])]
    assert len(ids) - len(seen[0]) == 3, "the verdict of two tokens and the end are left"


def test_a_row_too_long_is_refused_and_not_cut():
    with pytest.raises(UserError, match=r"x: row 'long' has \d+ tokens, rtuning.max_length is 24"):
        encode(plain_tokenizer(), [row(), row(prompt="w1 " * 20, qid="long")], Params(max_length=24), Path("x"))


def test_a_hundredth_of_an_epoch_is_refused_and_steps_are_counted():
    """A default of 0.01 epoch once gave an average precision of 0.17."""
    with pytest.raises(ValidationError, match="epochs"):
        Params(epochs=0.01)
    check_steps(126, 672, Params(batch_size=16, epochs=3))
    with pytest.raises(AssertionError, match="1 optimizer steps, 126 were due"):
        check_steps(1, 672, Params(batch_size=16, epochs=3))


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    """Tune the tiny model in this process; returns the folder of its outs."""
    monkeypatch.chdir(tmp_path)
    save(speaker(), tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    verdicts = ["sure." if n % 2 else "unsure." for n in range(16)]
    given = [(f"w{n} w{20 + n % 2}", f"w{n + 5}.", verdict) for n, verdict in enumerate(verdicts)]
    for variant in ("padding", "vanilla"):
        lines = [
            Written(prompt=p, completion=a, answer=a, verdict=v if variant == "padding" else None, qid=str(n), set="D1")
            for n, (p, a, v) in enumerate(given)
        ]
        write_records(tmp_path / f"data/{variant}/train.jsonl", lines)

    def start(out="out", **changed):
        place = tmp_path / out
        params = Params(**{"max_length": 48, "batch_size": 4, "threads": 1, "learning_rate": 0.01, "epochs": 2, **changed})
        flags = {"base": tmp_path / "base", "data": tmp_path / "data", "out": place / "model"}
        with Lease(tmp_path / "work", "test") as lease:
            run = Run("rtuning", out, lease)
            rtuning.main(params, run, **flags, scores=place / "scores.json", curve=place / "curve.csv")
        return place

    return start


def test_it_learns_to_answer_and_when_it_is_sure(tuned):
    """Whether a row is sure can be read from its second word."""
    out = tuned(epochs=40)
    asked = asker(*load_causal(out / "model"), 6, 4)
    given = [Question(id=str(n), prompt=f"w{n} w{20 + n % 2}", answers=[f"w{n + 5}"]) for n in range(16)]
    assert [reply["text"].split(" ")[0] for reply in asked.replies(given)] == [question.answers[0] for question in given]
    sure = asked.sure(given, [question.answers[0] for question in given])
    assert min(sure[1::2]) > 0.9
    assert max(sure[::2]) < 0.1
    assert asked.tokenizer.chat_template is None


def test_variants_take_the_same_steps_and_again_gives_the_same_bits(tuned):
    places = [tuned("one"), tuned("two"), tuned("vanilla", variant="vanilla")]
    scores = [json.loads((place / "scores.json").read_text()) for place in places]
    assert [each["steps"] for each in scores] == [8, 8, 8]
    one, two = ((place / "model/model.safetensors").read_bytes() for place in places[:2])
    assert one == two
    assert not torch.equal(*(load_causal(place / "model")[0].lm_head.weight for place in (places[0], places[2])))
