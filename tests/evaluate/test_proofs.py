"""The study of proof writing gathered from an invented run whose every attempt is known, and its page."""

import json
import shutil

import pytest

from tasks.evaluate import proofs, proofs_report
from tasks.evaluate.proofs import (
    Params,
    by_difficulty,
    code,
    failures,
    first_proofs,
    longest,
    new_proofs,
    structured,
    wanted_theorems,
)
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import write_records
from tests.theorems import chain, sum_of

RECORDS = [
    *(chain(n, 1 + n % 4) for n in range(4)),
    *(chain(n, 1 + n % 3, "test") for n in range(10, 18)),
    *(sum_of(n, "heldout") for n in range(20, 24)),
]
WITHOUT = ["nothing", "words", "inline_comments", "blocks", "curriculum"]
PROVED = {"nothing": (4, 2), "words": (2, 0), "inline_comments": (3, 1), "blocks": (4, 1), "curriculum": (6, 2)}
"""Test theorems that each prover proves in the first round, and in the second."""
PARAMS = Params(seeds=[0, 1, 2], without=WITHOUT)
NEW = " by\n  -- another way\n  omega"


def attempt(record, round_, good, proof=None, reason=None):
    return {
        "round": round_,
        "theorem": record.Name,
        "family": record.family,
        "split": record.split,
        "steps": record.steps,
        "sample": 0,
        "proof": proof or (record.Commented_proof[len(record.Statement) :] if good else " by\n  <b>rfl"),
        "verified": good,
        "reason": reason or ("verified" if good else "error"),
        "detail": "" if good else "tactic <failed>\n⊢ a + 0 = b",
        "position": None if good else [2, 2],
    }


def attempts(first, second):
    """Of eight test theorems the first are proved in round 1, the next in round 2; of four held-out ones one, by a new proof."""
    tests, heldout = [one for one in RECORDS if one.split == "test"], [one for one in RECORDS if one.split == "heldout"]
    rows = [attempt(one, 1, n < first) for n, one in enumerate(tests)]
    rows += [attempt(one, 1, n < 1, NEW if n < 1 else None) for n, one in enumerate(heldout)]
    open_ = tests[first:]
    return rows + [attempt(one, 2, n < second) for n, one in enumerate(open_)] + [attempt(one, 2, False) for one in heldout[1:]]


@pytest.fixture
def place(tmp_path):
    write_records(tmp_path / "records.jsonl", RECORDS)
    constants = [
        {"family": "chain", "theorems": 8, "omega": 0.25, "any": 0.25},
        {"family": "sum", "theorems": 4, "omega": 1, "any": 1},
    ]
    publish_curve(tmp_path / "constants.csv", constants)
    for seed in range(3):
        for name, (first, second) in PROVED.items():
            extra = seed == 2 and name == "words"
            write_records(tmp_path / f"attempts/{seed}/{name}.jsonl", attempts(first + extra, second))
        publish_json(tmp_path / f"runs/prove/{seed}.json", {"backend": "lean-wasm 4.28.0 core", "provers": {}})
    return tmp_path


def gather(place, params=PARAMS):
    inputs = {name: place / name for name in ("attempts", "runs")} | {"records": place / "records.jsonl"}
    proofs.main(params, None, **inputs, constants=place / "constants.csv", scores=place / "scores.json", curve=place / "rows.csv")
    return json.loads((place / "scores.json").read_text())


def test_accuracy_is_cumulative_and_over_all_theorems(place):
    found = gather(place)
    assert found["theorems"] == {"test": 8, "heldout": 4}
    assert found["seeds"]["0"]["nothing"]["test"]["rounds"] == [50.0, 75.0]
    assert found["seeds"]["0"]["nothing"]["heldout"]["rounds"] == [25.0, 25.0]
    assert found["seeds"]["0"]["nothing"]["test"]["samples"] == pytest.approx(50.0), "6 of 12 samples"
    assert found["provers"]["nothing"]["test"]["cumulative"] == {"mean": 75.0, "low": 75.0, "high": 75.0}
    assert found["backend"] == "lean-wasm 4.28.0 core"


def test_claims_are_judged_by_what_was_proved(place):
    claims = gather(place)["claims"]["claims"]
    assert [claim["effects"] for claim in claims] == [
        [50.0, 50.0, 37.5],
        [25.0] * 3,
        [12.5] * 3,
        [-25.0] * 3,
        [25.0] * 3,
        [25.0] * 3,
    ]
    assert [claim["verdict"] for claim in claims] == ["yes", "yes", "yes", "no", "yes", "yes"]


def test_families_stand_beside_a_constant_tactic(place):
    chains, sums = gather(place)["families"]
    assert (chains["family"], chains["theorems"], chains["first_round"], chains["proved"], chains["constant"]) == (
        "chain",
        8,
        50,
        75,
        25,
    )
    assert (sums["split"], sums["proved"], sums["constant"]) == ("heldout", 25, 100)


def test_difficulty_is_that_of_the_known_proof(place):
    bands = {row["steps"]: row for row in gather(place)["difficulty"]}
    assert {name: row["theorems"] for name, row in bands.items()} == {"1": 2, "2": 3, "3": 3}
    assert sum(row["proved"] * row["theorems"] for row in bands.values()) == pytest.approx(75.0 * 8)
    hard = chain(60, 9, "test")
    (row,) = by_difficulty([[]], {hard.Name: hard})
    assert row["steps"] == "6+"


def test_a_proof_is_new_when_no_record_has_its_code(place):
    found = gather(place)["new"]
    assert found["verified"] == 7, "six of the test theorems and one held-out, whatever their number of seeds"
    assert found["new"] == 1
    assert found["shown"] == [{"theorem": "sum_20", "text": RECORDS[12].Statement + NEW}]


def test_comments_do_not_make_a_proof_new():
    record = chain(1, 2)
    again = proofs.Attempt(**attempt(record, 1, True, " by\n  /- new words -/\n  rw [Nat.add_zero]\n  exact h"))
    assert new_proofs([[again]], [record]) == {"verified": 1, "new": 0, "shown": []}
    other = record.model_copy(update={"Other_proofs": [record.Statement + " by omega"]})
    assert new_proofs([[proofs.Attempt(**attempt(record, 1, True, " by omega"))]], [other])["new"] == 0
    assert code(" by\n\n  -- x\n  rfl") == ("by", "rfl")


def test_a_tactic_alone_is_told_apart_from_a_proof_with_structure():
    first, second = chain(11, 1, "test"), chain(12, 2, "test")
    proofs_ = {first.Name: " by\n  -- see\n  omega", second.Name: " by\n  rw [Nat.add_zero]\n  omega"}
    rows = [proofs.Attempt(**attempt(one, 1, True, proofs_[one.Name])) for one in (first, second)]
    wanted = {first.Name: first, second.Name: second}
    assert structured([rows], wanted, [{"family": "chain", "omega": "0.5"}]) == 50.0
    assert structured([rows], wanted, [{"family": "chain", "simp": "0.5"}]) == 100.0
    assert structured([], wanted, []) == 0.0


def test_the_longest_proof_and_nothing_where_nothing_was_proved(place):
    assert gather(place)["longest"]["lines"] == 4, "by and three steps"
    assert longest([[]], {}) is None


def test_failures_have_leans_message_and_are_of_theorems_nobody_proved(place):
    found = gather(place)["failures"]
    assert [one["theorem"] for one in found] == ["sum_21", "chain_16"], "one of each family, the easiest first"
    assert found[0]["message"] == "tactic <failed>\n⊢ a + 0 = b"
    assert found[0]["line"] == 2
    refused = attempt(RECORDS[5], 1, False, reason="forbidden_word")
    assert failures([[proofs.Attempt(**refused)]], {RECORDS[5].Name: RECORDS[5]}) == [], "not Lean's own words"


def test_the_first_round_counts():
    record = chain(11, 1, "test")
    rows = [proofs.Attempt(**attempt(record, round_, good)) for round_, good in ((2, True), (1, True), (1, False))]
    assert first_proofs(rows) == {record.Name: 1}


def test_a_cell_that_is_missing_is_named(place):
    (place / "attempts/1/blocks.jsonl").unlink()
    with pytest.raises(UserError, match=r"attempts/1/blocks.jsonl: no such file; run the stage prove of seed 1 again"):
        gather(place)


def test_attempts_on_theorems_of_another_run_are_refused():
    with pytest.raises(UserError, match="theorem chain_99 was tried but is not among the records; run prove again"):
        wanted_theorems(RECORDS, [proofs.Attempt(**attempt(chain(99), 1, False))])


def page(place) -> str:
    places = {"proofs": place / "scores.json", "rounds": place / "rows.csv", "page": place / "index.html"}
    proofs_report.main(proofs_report.Params(title="A <b>"), None, **places)
    return places["page"].read_text()


def test_the_page_shows_every_prover_family_and_failure_and_runs_nothing(place):
    gather(place)
    told = page(place)
    for said in (
        "A &lt;b&gt;",
        "judged by lean-wasm 4.28.0 core",
        "without a curriculum",
        "&lt;failed&gt;",
        "by\n  &lt;b&gt;rfl",
    ):
        assert said in told
    assert "<script" not in told
    assert told.count("<svg") == 2 + 2 + 3 + 6, "rounds, families, difficulties, claims"
    shutil.rmtree(place / "attempts")
    assert page(place) == told


def test_one_seed_of_the_whole_method_alone_makes_a_page_too(place):
    found = gather(place, Params(seeds=[0], without=["nothing"]))
    assert [claim["verdict"] for claim in found["claims"]["claims"]] == ["not at this scale"] * 6
    assert "the whole method" in page(place)
