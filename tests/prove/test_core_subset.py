"""What core Lean can state is found by asking it; what is proved of that is counted by split and tactic."""

import json

import pytest

from tasks.prove import core_subset
from tasks.prove.checker import LETTERS, Verdict
from tasks.prove.core_subset import Formal, Params, describe, main, statement, tried
from tasks.runtime.records import read_records

ROWS = [
    {
        "name": "a",
        "split": "test",
        "formal_statement": "theorem a : 2 + 2 = 4 := by\n",
        "informal_prefix": "/-- Two and two.-/\n",
    },
    {"name": "b", "split": "test", "formal_statement": "theorem b (x : ℝ) : x = x := by\n"},
    {"name": "c", "split": "valid", "formal_statement": "theorem c (n : ℕ) (h : 0 < n) :\n  n * n ≥ n := by"},
]


class Knows:
    """A checker that cannot state the reals, and proves by `decide` what has no hypotheses."""

    def __init__(self):
        self.asked = []

    def check(self, candidates):
        [one] = candidates
        self.asked.append(one.proof)
        reason = "unsupported" if "ℝ" in one.statement else "verified" if one.proof.endswith("4 := by decide") else "error"
        return [Verdict(reason == "verified", reason, "", None, 0.0, "lean-wasm", "4.28.0", "core")]


class Silent:
    """Progress that nobody watches."""

    def advance(self, count):
        pass


def test_a_statement_ends_with_its_assignment():
    assert statement(Formal(**ROWS[0])) == "theorem a : 2 + 2 = 4 :="
    assert statement(Formal(**ROWS[2])).endswith("n * n ≥ n :=")
    assert (
        statement(Formal(name="nearby", split="test", formal_statement="theorem nearby : baby :=")) == "theorem nearby : baby :="
    )


def test_tactics_are_tried_in_order_until_one_proves_it_or_it_cannot_be_stated():
    checker, tactics = Knows(), ["rfl", "decide", "omega"]
    found = [tried(checker, Formal(**row), tactics, Silent()) for row in ROWS]
    assert [tactic for tactic, _ in found] == ["decide", None, None]
    assert len(checker.asked) == 2 + 1 + 3


def test_the_stage_writes_what_can_be_stated_and_counts_it(tmp_path, monkeypatch):
    from contextlib import contextmanager

    @contextmanager
    def opened(settings):
        assert settings.header == LETTERS
        yield Knows()

    monkeypatch.setattr(core_subset, "open_checker", opened)
    source = tmp_path / "minif2f.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    run = type("Run", (), {"progress": lambda self, *about: Silent()})()
    main(Params(tactics=["rfl", "decide"]), run, statements=source, out=tmp_path / "out", scores=tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["statements"] == {"test": 2, "valid": 1}
    assert scores["stated"] == {"test": 1, "valid": 1}
    assert scores["proved"] == {"test": 1}
    assert scores["by_tactic"] == {"decide": 1}
    assert scores["refused"] == {"unsupported": 1}
    assert (scores["backend"], scores["toolchain"]) == ("lean-wasm", "4.28.0")
    stated = read_records(tmp_path / "out/stated.jsonl", core_subset.Stated)
    assert [(row.Name, row.Informal_statement, row.proved_by) for row in stated] == [
        ("a", "Two and two.", "decide"),
        ("c", "", None),
    ]


def test_nothing_to_look_at_is_no_mistake():
    assert describe([], [], [], None)["stated"] == {}


@pytest.mark.real
def test_the_real_file_is_read(real_data):
    rows = read_records(real_data / "data/lean/minif2f.jsonl", Formal)
    assert len(rows) == 488
    assert all(statement(row).endswith(":=") for row in rows)
