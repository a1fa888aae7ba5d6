"""The study of refusal gathered from an invented run whose effects are known by construction, and its page."""

import csv
import json
import shutil

import pytest

from tasks.evaluate import refusal_report, refusal_tradeoffs
from tasks.evaluate.page.refused import NAMES
from tasks.evaluate.refusal_tradeoffs import Params, summary
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json

AP = {"vanilla": 0.8, "vanilla_c": 0.7, "r_tuning": 0.85, "r_tuning_u": 0.75}
STATING = ("r_tuning", "r_tuning_u")
EXPOSURES = {"0": 1.0, "4": 0.6, "8": 0.2, "16": 0.1}


def scores(name: str, nudge: float) -> dict[str, float | None]:
    ap, right = AP.get(name, 0.6) + nudge, 0.9 if name == "r_tuning_r" else 0.7
    rates = {"answer_rate": 0.4, "accuracy": 0.5, "accuracy_on_willing": None if name == "pretrain_w" else right}
    areas = {"ap": ap, "ap_answer": ap, "auroc_answer": 0.8, "auroc_sure": 0.8 if name in STATING else None, "aurc": 0.2}
    return {**rates, **areas, "ece": 0.05 if name == "r_tuning_u" else 0.2}


def system(name: str, nudge: float) -> dict:
    refuses = name in (*STATING, "r_tuning_r")
    by_set = {"in": 0.5, "out": 0.4, "unheard name": 0.9, "false premise": 0.7}
    return {
        "sets": {"in": scores(name, nudge), "out": scores(name, nudge)},
        "refusal_by_exposure": {times: rate if refuses else 0.0 for times, rate in EXPOSURES.items()},
        "refusal_by_set": {kind: rate if refuses else 0.0 for kind, rate in by_set.items()},
        "refusal_unanswerable": 0.8 if refuses else 0.0,
    }


@pytest.fixture
def runs(tmp_path):
    """Three seeds: R-Tuning ranks .05 better than Vanilla, refuses .85 more of what was never told, .8 of what has no answer."""
    names = ("r_tuning", "r_tuning_r", "r_tuning_u")
    rival = {"in": 0.5, "out": 0.5, "unheard name": 0.4, "false premise": 0.2}
    for seed in range(3):
        publish_json(tmp_path / f"runs/data/{seed}.json", {"entropy_d0": 1.5, "entropy_d1": 0.5 + 0.01 * seed, "d0_share": 0.5})
        told = {"accuracy_by_exposure": {times: 1 - rate for times, rate in EXPOSURES.items()}}
        world = {"d0_share": 0.5, "probe_auroc": 0.9 - 0.1 * seed, "suitable": seed < 2, **told}
        compared = {
            "matched": {name: {"in": 0.75, "out": None} for name in names},
            "refusal_matched": dict.fromkeys(names, rival),
        }
        systems = {name: system(name, 0.001 * seed if name == "vanilla" else 0) for name in NAMES}
        publish_json(tmp_path / f"runs/eval/{seed}.json", {"world": world, "systems": systems, "compared": compared})
        risk = [{"coverage": 0.5, "risk": 0.1, "threshold": 0.9}, {"coverage": 1.0, "risk": 0.5, "threshold": 0.1}]
        bins = [{"bin": 8, "low": 0.8, "high": 0.9, "confidence": 0.85, "accuracy": 0.7, "count": 20}]
        for place, rows in (("eval", risk), ("reliability", bins)):
            told_rows = [{"set": where, "system": name, **row} for where in ("in", "out") for name in NAMES for row in rows]
            publish_curve(tmp_path / f"runs/{place}/{seed}.csv", told_rows)
    return tmp_path


CURVES = ("refusals", "coverage", "reliability")


def gather(place, seeds=(0, 1, 2)) -> dict:
    outs = {name: place / f"{name}.csv" for name in CURVES}
    refusal_tradeoffs.main(Params(seeds=list(seeds)), None, runs=place / "runs", scores=place / "scores.json", **outs)
    return json.loads((place / "scores.json").read_text())


def test_claims_are_judged_by_what_was_measured(runs):
    claims = gather(runs)["claims"]["claims"]
    found = {claim["metric"].split(":")[0] + claim["claim"]: (claim["verdict"], claim["effects"]) for claim in claims}
    assert [verdict for verdict, _ in found.values()] == ["yes"] * len(claims)
    effects = [effects for _, effects in found.values()]
    assert effects[0] == effects[1] == pytest.approx([0.05, 0.049, 0.048])
    assert effects[2] == pytest.approx([0.4] * 3)
    assert effects[5] == pytest.approx([-0.15] * 3)
    assert effects[6] == pytest.approx([0.8] * 3)
    assert effects[7] == pytest.approx([1.0, 0.99, 0.98])
    assert effects[8] == pytest.approx([0.85] * 3)
    assert effects[-1] == pytest.approx([0.5] * 3)


def test_numbers_are_those_of_all_seeds_and_one_that_does_not_exist_counts_as_none(runs):
    found = gather(runs)
    assert found["systems"]["vanilla"]["sets"]["in"]["ap"]["mean"] == pytest.approx(0.801)
    assert found["systems"]["vanilla"]["sets"]["in"]["ap"]["sd"] == pytest.approx(0.001)
    missing = {"mean": None, "sd": None, "low": None, "high": None, "seeds": 0}
    assert found["systems"]["pretrain_w"]["sets"]["in"]["accuracy_on_willing"] == missing
    assert found["worlds"]["probe_auroc"]["mean"] == pytest.approx(0.8)
    assert "suitable" not in found["worlds"], "a truth has no mean"
    with (runs / "refusals.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(NAMES) * len(EXPOSURES)
    assert {(row["exposure"], row["wrong"]) for row in rows if row["system"] == "r_tuning"} == {
        ("0", "1.0"),
        ("4", "0.6"),
        ("8", "0.19999999999999996"),
        ("16", "0.09999999999999998"),
    }


def test_a_seed_without_a_number_is_left_out_of_its_mean():
    assert summary([{"a": 1.0}, {"a": None}, {"a": 2.0}], 0.95)["a"]["mean"] == 1.5
    assert summary([{"a": 1.0}, {"a": None}, {"a": 2.0}], 0.95)["a"]["seeds"] == 2


def test_a_cell_that_is_missing_is_named(runs):
    (runs / "runs/data/1.json").unlink()
    with pytest.raises(UserError, match=r"data/1.json: no such file; run the cell"):
        gather(runs)


def page(place) -> str:
    places = {"tradeoffs": place / "scores.json", "page": place / "index.html"} | {name: place / f"{name}.csv" for name in CURVES}
    refusal_report.main(refusal_report.Params(title="A <b>"), None, **places)
    return places["page"].read_text()


def test_the_page_shows_every_system_and_runs_nothing(runs):
    claims = gather(runs)["claims"]["claims"]
    told = page(runs)
    assert "A &lt;b&gt;" in told
    assert "<script" not in told
    assert "2 with a world" in told
    assert told.count("<svg") == 3 + 2 + 6 + len(claims)
    for name in NAMES.values():
        assert name in told
    assert "<b>0.850</b>" in told
    shutil.rmtree(runs / "runs")
    assert page(runs) == told


def test_a_single_seed_has_no_spread_and_still_makes_a_page(runs):
    gather(runs, [0])
    assert "±" not in page(runs)
