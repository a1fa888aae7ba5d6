"""Questions are drawn from their known distributions; training and validation share no draw, and a seed gives the same bytes."""

from collections import Counter

import pytest

from tasks.data import noisy_questions
from tasks.data.noisy_questions import Params
from tasks.runtime.lease import Lease
from tasks.runtime.records import Completion, read_records, write_records
from tasks.runtime.stage import Run


@pytest.fixture
def draw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"p{n} ?", "answers": ["a", "b", "c"], "probabilities": [0.6, 0.4, 0.0]} for n in range(3)]
    write_records(tmp_path / "corpus/noisy.jsonl", rows)

    def start(out: str, **changed):
        with Lease(tmp_path / "work", "test") as lease:
            places = {"corpus": tmp_path / "corpus", "out": tmp_path / out, "scores": tmp_path / "scores.json"}
            noisy_questions.main(Params(**changed), Run("distill-data", "identity", lease), **places)
        return {name: read_records(tmp_path / out / f"{name}.jsonl", Completion) for name in ("sft", "valid")}

    return start


def test_counts_shares_and_ids(draw):
    sets = draw("out", training=400, validation=50)
    assert Counter(record.prompt for record in sets["sft"]) == {f"p{n} ?": 400 for n in range(3)}
    assert len(sets["valid"]) == 150
    share = sum(record.completion == "a" for record in sets["sft"]) / 1200
    assert share == pytest.approx(0.6, abs=0.05)
    assert not any(record.completion == "c" for record in sets["sft"])
    ids = [record.model_dump()["id"] for part in sets.values() for record in part]
    assert len(set(ids)) == len(ids) == 1350


def test_a_seed_gives_the_same_draws_and_another_gives_others(draw):
    assert draw("a") == draw("b")
    assert draw("a")["sft"] != draw("c", seed=1)["sft"]
