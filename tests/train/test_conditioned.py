"""The policy before DPA: learns the assistant's turn alone, through a template that tells it of the direction."""

import json

import pytest

from tasks.data import ratings
from tasks.runtime.lease import Lease
from tasks.runtime.models import load_causal, load_tokenizer
from tasks.runtime.packing import IGNORED
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tasks.train.conditioned import Params, encode, main

SMALL = {"sft": 60, "rated": 20, "heldout_rated": 8, "prompts": 4, "heldout": 4}


@pytest.fixture
def sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ratings.main(ratings.Params(**SMALL), None, out=tmp_path / "sets", scores=tmp_path / "data.json")
    return tmp_path / "sets"


def test_system_and_user_tokens_weigh_nothing_and_the_answer_all(sets):
    tokenizer = load_tokenizer(sets / "tokenizer")
    rows = [json.loads(line) for line in (sets / "sft.jsonl").open()]
    for row, (ids, labels) in zip(rows, encode(tokenizer, sets / "sft.jsonl"), strict=True):
        learned = [token for token, label in zip(ids, labels, strict=True) if label != IGNORED]
        assert tokenizer.decode(learned) == f"{row['messages'][2]['content']} <eos>"
        said = tokenizer.decode(ids[: len(ids) - len(learned)])
        assert said.startswith("<system> You are")
        assert said.endswith(f"<user> {row['messages'][1]['content']} <assistant>")


def test_turns_in_another_order_are_named(sets):
    turns = [{"role": role, "content": "apple"} for role in ("system", "assistant", "user")]
    write_records(sets / "sft.jsonl", [{"messages": turns}])
    with pytest.raises(UserError, match="record 1: has the turns system, assistant, user"):
        encode(load_tokenizer(sets / "tokenizer"), sets / "sft.jsonl")


def test_it_learns_and_publishes_a_model_that_loads(sets, tmp_path):
    params = Params(hidden_size=32, layers=1, max_length=64, batch_size=4, epochs=4, threads=1, learning_rate=0.01)
    with Lease(tmp_path / "work", "test") as lease:
        run = Run("dpa-sft", "identity", lease)
        main(params, run, sets=sets, out=tmp_path / "out", scores=tmp_path / "s.json", curve=tmp_path / "c.csv")
    model, tokenizer = load_causal(tmp_path / "out")
    scores = json.loads((tmp_path / "s.json").read_text())
    assert model.num_parameters() == scores["parameters"]
    assert tokenizer.chat_template == ratings.CHAT_TEMPLATE, "the model is published with its own template"
    losses = [float(line.split(",")[1]) for line in (tmp_path / "c.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0] - 0.3
