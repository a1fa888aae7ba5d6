"""The transfer set holds the teacher's answers and texts; validation has right answers and nothing that the teacher refuses."""

import json

import pytest

from tasks.distill import transfer
from tasks.distill.transfer import Asked, Params, statements
from tasks.runtime.lease import Lease
from tasks.runtime.params import UserError
from tasks.runtime.records import Completion, Text, read_records, write_records
from tasks.runtime.stage import Run
from tests.tiny import llama, save


def question(number: int) -> dict:
    return {"qid": f"q{number}", "prompt": f"w{number} w1", "answers": [f"w{number + 3}"], "source": "s", "group": f"g{number}"}


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(llama(), tmp_path / "teacher")
    turns = [{"role": "user", "content": "w7 w8"}, {"role": "assistant", "content": "w9 Confidence: 3"}]
    write_records(tmp_path / "questions/sft.jsonl", [{"messages": turns, "c": 3, "qid": "q"}])
    write_records(tmp_path / "questions/rl.jsonl", [question(1)])
    write_records(tmp_path / "questions/valid.jsonl", [question(2), question(3)])
    write_records(tmp_path / "sets/prompts.jsonl", [{"prompt": f"w{n} w2"} for n in range(4)])
    write_records(tmp_path / "sets/pretrain.jsonl", [{"text": f"w{n} w{n + 1} w{n + 2}"} for n in range(9)] + [{"text": "w1"}])

    def start(**changed):
        with Lease(tmp_path / "work", "test") as lease:
            places = {name: tmp_path / name for name in ("teacher", "questions", "sets", "out")}
            params = Params(**{"prompts": 3, "samples": 2, "texts": 4, "max_new_tokens": 5, **changed})
            transfer.main(params, Run("transfer", "identity", lease), **places, scores=tmp_path / "scores.json")
        return {name: read_records(tmp_path / f"out/{name}.jsonl", Completion) for name in ("sft", "valid")}

    return start


def test_what_there_is_to_learn(make, tmp_path):
    sets = make()
    assert json.loads((tmp_path / "scores.json").read_text()) == {"answers": 2 + 3 * 2, "texts": 4, "valid": 2, "refused": 0}
    assert {"w7 w8", "w1 w1", "w0 w2", "w1 w2", "w2 w2"} <= {record.prompt for record in sets["sft"]}
    assert len(sets["sft"]) == 12
    assert [(record.prompt, record.completion) for record in sets["valid"]] == [("w2 w1", "w5"), ("w3 w1", "w6")]


def test_answers_learned_are_the_teachers_own_not_those_it_was_tuned_on(make):
    assert "w9 Confidence: 3" not in {record.completion for record in make()["sft"]}


def test_what_the_teacher_refuses_chooses_nothing(make, monkeypatch, tmp_path):
    monkeypatch.setattr(
        Asked, "texts", lambda self, prompts, *_: [["The answer is unknown ." if p == "w2 w1" else "w6"] for p in prompts]
    )
    assert [record.prompt for record in make(samples=1)["valid"]] == ["w3 w1"]
    assert json.loads((tmp_path / "scores.json").read_text())["refused"] == 1


def test_a_teacher_that_refuses_everything_is_told(make, monkeypatch):
    monkeypatch.setattr(Asked, "texts", lambda self, prompts, *_: [["we do not know"] for _ in prompts])
    with pytest.raises(UserError, match=r"valid.jsonl: the teacher refuses all of its questions"):
        make(samples=1)


def test_statements_learn_all_but_their_first_word():
    told = statements([Text(text="a b  c"), Text(text="d")], Params(texts=5))
    assert told == [{"prompt": "a", "completion": "b  c"}]
