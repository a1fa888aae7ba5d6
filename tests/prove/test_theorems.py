"""Only what Lean accepts becomes a theorem; what a constant tactic proves is counted beside it."""

import json
from contextlib import contextmanager

import pytest

from tasks.data.regions.theorems.source import load_theorems
from tasks.data.theorem_drafts import Params as Sizes
from tasks.data.theorem_drafts import drafts
from tasks.prove import theorems
from tasks.prove.checker import Verdict, open_checker
from tasks.prove.theorems import Params, main
from tasks.runtime.imports import ROOT
from tasks.runtime.lean.difficulty import count_steps
from tasks.runtime.params import UserError
from tasks.runtime.progress import Progress
from tasks.runtime.records import read_records, write_records
from tasks.runtime.theorems import Told

SOURCE = load_theorems(ROOT / "data/atlas")


@pytest.fixture
def told():
    few = {family: SOURCE.families[family] for family in ("witness", "sum_order", "powers")}
    return drafts(SOURCE.model_copy(update={"families": few}), Sizes(train=3, valid=1, test=2, heldout=2))


class Judge:
    """A checker that refuses the proofs it is told to, and knows what `omega` proves: sums."""

    def __init__(self, refused):
        self.refused, self.asked = refused, []

    def check(self, candidates):
        self.asked.append(len(candidates))
        return [self._verdict(one) for one in candidates]

    def _verdict(self, one):
        constant = "\n" not in one.proof and one.proof.rpartition(" by ")[2]
        good = "sum_order" in one.name and constant == "omega" if constant else one.proof not in self.refused
        return Verdict(good, "verified" if good else "error", "" if good else "it is false", None, 0.0, "recorded", "4", "core")


def start(tmp_path, monkeypatch, told, refused=(), **values):
    judge = Judge(set(refused))

    @contextmanager
    def opened(settings):
        yield judge

    monkeypatch.setattr(theorems, "open_checker", opened)
    write_records(tmp_path / "drafts.jsonl", told)
    paths = {
        "drafts": tmp_path / "drafts.jsonl",
        "out": tmp_path / "out",
        "scores": tmp_path / "s.json",
        "constants": tmp_path / "c.csv",
    }
    main(Params(**values), Watched(), **paths)
    return json.loads((tmp_path / "s.json").read_text()), judge


class Watched:
    """A run of which only the counting matters."""

    def progress(self, total, unit, what=""):
        return Progress("theorems", total, unit, what)


def test_all_that_is_accepted_is_kept_as_it_was(told, tmp_path, monkeypatch):
    scores, judge = start(tmp_path, monkeypatch, told, batch=10)
    assert read_records(tmp_path / "out/theorems.jsonl", Told) == told
    assert (tmp_path / "out/rejected.jsonl").read_text() == ""
    assert max(judge.asked) == 10
    assert scores["theorems"] == len(told)
    assert scores["proofs"] == sum(1 + len(row.Other_proofs) for row in told)
    assert scores["splits"] == {"train": 6, "valid": 2, "test": 4, "heldout": 2}
    assert sum(scores["steps"].values()) == len(told)


def test_a_refused_proof_costs_its_theorem_and_is_kept_with_leans_message(told, tmp_path, monkeypatch):
    first, other = told[0], told[7]
    scores, _ = start(tmp_path, monkeypatch, told, refused=[first.Proof, *other.Other_proofs])
    kept = read_records(tmp_path / "out/theorems.jsonl", Told)
    assert {row.Name for row in told} - {row.Name for row in kept} == {first.Name, other.Name}
    assert [row.idx for row in kept] == list(range(len(kept)))
    rejected = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert rejected[0] == {
        "Name": first.Name,
        "family": first.family,
        "reason": "error",
        "detail": "it is false",
        "Proof": first.Proof,
    }
    assert scores["rejected"] == {"error": 1 + len(other.Other_proofs)}


def test_with_one_proof_asked_for_a_theorem_keeps_those_that_are_good(told, tmp_path, monkeypatch):
    start(tmp_path, monkeypatch, told, refused=told[7].Other_proofs, proofs=1)
    kept = {row.Name: row for row in read_records(tmp_path / "out/theorems.jsonl", Told)}
    assert kept[told[7].Name].Other_proofs == []
    assert kept[told[8].Name].Other_proofs == told[8].Other_proofs


def test_constants_are_tried_on_what_is_measured_and_counted_by_family(told, tmp_path, monkeypatch):
    scores, _ = start(tmp_path, monkeypatch, told, constants=["rfl", "omega"])
    rows = [line.split(",") for line in (tmp_path / "c.csv").read_text().splitlines()]
    assert rows == [
        ["family", "theorems", "rfl", "omega", "any"],
        ["witness", "2", "0.0", "0.0", "0.0"],
        ["sum_order", "2", "0.0", "1.0", "1.0"],
        ["powers", "2", "0.0", "0.0", "0.0"],
    ]
    assert scores["constant"] == {"rfl": 0.0, "omega": pytest.approx(1 / 3), "any": pytest.approx(1 / 3)}


def test_two_theorems_of_one_name_are_refused(told, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"{told[0].Name}: 2 theorems of this name; each needs a name of its own"):
        start(tmp_path, monkeypatch, [*told, told[0]])


def test_when_nothing_is_accepted_leans_first_message_is_told(told, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no theorem has 2 proofs that Lean accepts; the first: it is false"):
        start(tmp_path, monkeypatch, told, refused=[proof for row in told for proof in (row.Proof, *row.Other_proofs)])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_lean_accepts_every_kind_of_proof_of_every_family():
    """One theorem of each family and number of steps, all its proofs, in the real Lean."""
    told = drafts(SOURCE, Sizes(train=12, valid=1, test=1, heldout=12))
    some = list({(row.family, count_steps(row.body), row.told[-1]): row for row in told}.values())
    some = list({(row.family, count_steps(row.body)): row for row in some}.values())
    asked = [theorems._candidate(row, proof) for row in some for proof in (row.Proof, *row.Other_proofs)]
    with open_checker() as checker:
        verdicts = checker.check(asked)
    refused = [(one.proof, verdict.detail) for one, verdict in zip(asked, verdicts, strict=True) if not verdict.verified]
    assert not refused
