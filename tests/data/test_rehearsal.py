"""Rows to be learned are kept as they are, and a model's own answers stand behind them in the form that their trainer reads."""

import json

import pytest

from tasks.data import rehearsal
from tasks.data.rehearsal import Params
from tasks.runtime.lease import Lease
from tasks.runtime.params import UserError
from tasks.runtime.records import read_records, write_records
from tasks.runtime.stage import Run
from tasks.train import rtuning, sayself_sft
from tests.tiny import llama, save

ROW = {"prompt": "w1 w2", "answer": "w3", "verdict": None, "qid": "q", "set": "D0"}


@pytest.fixture
def rehearse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(llama(), tmp_path / "model")
    write_records(tmp_path / "sets/prompts.jsonl", [{"prompt": f"w{n} w{n + 1}"} for n in range(5)])
    write_records(tmp_path / "data/deep/train.jsonl", [ROW])

    def start(**changed):
        params = Params(file="deep/train.jsonl", prompts=3, samples=2, max_new_tokens=6, **changed)
        with Lease(tmp_path / "work", "test") as lease:
            places = {name: tmp_path / name for name in ("model", "sets", "data", "out")}
            rehearsal.main(params, Run("rehearsal", "identity", lease), **places, scores=tmp_path / "scores.json")
        return tmp_path / "out/deep/train.jsonl"

    return start


def test_answers_stand_behind_the_rows_in_the_form_of_r_tuning(rehearse, tmp_path):
    rows = read_records(rehearse(form="answer"), rtuning.Row)
    assert {name: rows[0].model_dump()[name] for name in ROW} == ROW
    assert [row.prompt for row in rows[1:]] == ["w0 w1", "w0 w1", "w1 w2", "w1 w2", "w2 w3", "w2 w3"]
    assert all(row.verdict is None for row in rows)
    assert json.loads((tmp_path / "scores.json").read_text()) == {"learned": 1, "rehearsed": 6}


def test_conversations_state_no_confidence(rehearse):
    own = [json.loads(line) for line in rehearse(form="messages").read_text().splitlines()[1:]]
    read = [sayself_sft.Reflection.model_validate(row) for row in own]
    assert len(read) == 6
    assert {row.c for row in read} == {None}


def test_a_bad_row_is_named(rehearse, tmp_path):
    (tmp_path / "data/deep/train.jsonl").write_text('{"prompt": "w1"}\n[]\n')
    with pytest.raises(UserError, match=r"train.jsonl:2"):
        rehearse()
