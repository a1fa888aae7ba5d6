"""Stage 1: a model learns to answer with a rationale and a confidence, the response alone and never a part of it."""

import json

import pytest

from tasks.runtime.confidence import add_words, parse_response, unknown_words, write_response
from tasks.runtime.generate import generate
from tasks.runtime.lease import Lease
from tasks.runtime.models import encode_prompt, load_causal
from tasks.runtime.packing import IGNORED
from tasks.runtime.params import UserError
from tasks.runtime.records import read_records, write_records
from tasks.runtime.stage import Run
from tasks.train import sayself_sft
from tasks.train.sayself_sft import LEVELS, Params, Reflection, encode
from tests.tiny import WORDS, llama, save, word_tokenizer

SMALL = {"max_length": 64, "batch_size": 2, "epochs": 80, "learning_rate": 0.01, "threads": 1}


def row(number, level, **changed):
    said = write_response(WORDS[number], f"torn between {WORDS[number]} and {WORDS[number + 1]}", level)
    messages = [{"role": "user", "content": f"{WORDS[number]} {WORDS[20]}"}, {"role": "assistant", "content": said}]
    return {"messages": messages, "c": level, **changed}


ROWS = [row(number, level) for number, level in enumerate([10, 0, 7, 3, 10, 5, 1, 9])]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    save(llama(), folder / "base")
    write_records(folder / "sets/sft.jsonl", ROWS)
    return folder


@pytest.fixture(scope="module")
def tuned(world):
    with pytest.MonkeyPatch.context() as patch, Lease(world / "work", "test") as lease:
        patch.chdir(world)
        places = {name: world / name for name in ("base", "sets", "out", "scores", "curve")}
        sayself_sft.main(Params(**SMALL), Run("sayself-sft", "identity", lease), **places)
    return world


def test_it_says_back_what_it_learned_with_10_whole(tuned):
    model, tokenizer = load_causal(tuned / "out")
    prompts = [row["messages"][0]["content"] for row in ROWS]
    texts = generate(model, tokenizer, prompts, max_new_tokens=20, temperature=0, seed=0, batch_size=8)
    assert [parse_response(text) for (text,) in texts] == [parse_response(row["messages"][1]["content"]) for row in ROWS]
    assert json.loads((tuned / "scores").read_text())["loss"] < 0.1


def test_every_confidence_is_one_token_also_one_that_no_row_has(tuned):
    _, tokenizer = load_causal(tuned / "out")
    assert all(len(tokenizer(level)["input_ids"]) == 1 for level in LEVELS)
    assert unknown_words(tokenizer, LEVELS) == []


def test_the_loss_is_on_the_whole_response_and_nothing_else(world):
    tokenizer, model = word_tokenizer(), llama()
    records = read_records(world / "sets/sft.jsonl", Reflection)
    add_words(model, tokenizer, unknown_words(tokenizer, [record.messages[1].content for record in records]))
    for record, (ids, labels) in zip(records, encode(tokenizer, records, Params(**SMALL), world), strict=True):
        prompt = encode_prompt(tokenizer, record.messages[0].content)
        assert labels == [IGNORED] * len(prompt) + ids[len(prompt) :]
        assert tokenizer.convert_ids_to_tokens(ids[-2:]) == [str(record.c), "</s>"]


FAULTS = {
    "too long": (row(1, 5), {"max_length": 8}, "record 1: has .* tokens, past .* cutting it would lose its confidence"),
    "another confidence": (row(1, 5, c=6), {}, "record 1: must be .* ends with `Confidence: 6`"),
    "none": ({"messages": [row(1, 5)["messages"][0], {"role": "assistant", "content": "w1"}], "c": 0}, {}, "must be"),
    "turned round": ({"messages": row(1, 5)["messages"][::-1], "c": 5}, {}, "must be a user's turn"),
}


@pytest.mark.parametrize(("bad", "changed", "said"), FAULTS.values(), ids=FAULTS)
def test_a_row_that_would_lose_its_confidence_is_refused(tmp_path, bad, changed, said):
    write_records(tmp_path / "sft.jsonl", [bad])
    with pytest.raises(UserError, match=said):
        encode(word_tokenizer(), read_records(tmp_path / "sft.jsonl", Reflection), Params(**{**SMALL, **changed}), tmp_path)
