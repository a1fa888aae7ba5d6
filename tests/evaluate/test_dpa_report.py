"""The page of directional preference alignment, from an invented run whose effects are known by construction."""

import csv
import json

import pytest

from tasks.evaluate.dpa import Params as EvalParams
from tasks.evaluate.dpa import judge_seed, summary
from tasks.evaluate.dpa_report import Params, main
from tasks.evaluate.page.figures import read_curve
from tasks.evaluate.page.steered import render
from tasks.runtime.publish import publish_curve, publish_json

ANGLES = [-45.0, 0.0, 45.0]


def rows(rise: float) -> list[dict]:
    """Two rounds in which verbosity follows the angle, and helpfulness rises by `rise`, by the model's account by twice that."""
    found = []
    for number in (0, 1):
        for angle in ANGLES:
            true = {"helpfulness": 50 + rise * number, "verbosity": 50 + angle / 3 + number}
            model = {"model_helpfulness": 50 + 2 * rise * number, "model_verbosity": true["verbosity"]}
            found.append(
                {"round": number, "angle": angle, "unseen": 0, **true, **model, "length": 8 + angle / 9, "distinct": 1.0}
            )
    return found


@pytest.fixture
def told(tmp_path):
    params = EvalParams(angles=ANGLES, unseen=[])
    own = {seed: rows(10 + int(seed)) for seed in "012"}
    alone = {"angle": 0.0, "helpfulness": 55.0, "verbosity": 50.0}
    judged = {seed: judge_seed({"rows": found, "scalar": alone, "dpo": alone}, params) for seed, found in own.items()}
    swept = {rate: {"validation": 60.0, "heldout_model": 61.0, "heldout_true": 55.0} for rate in ("1e-05", "0.0001")}
    publish_json(tmp_path / "evaluation.json", {**summary(judged, params), "dpo_rate": 1e-5, "dpo_rates": swept})
    publish_curve(tmp_path / "rows.csv", [{"seed": seed, **row} for seed, found in own.items() for row in found])
    places = {"evaluation": tmp_path / "evaluation.json", "rows": tmp_path / "rows.csv"}
    main(Params(title="A <b>"), None, **places, claims=tmp_path / "claims.json", page=tmp_path / "index.html")
    return tmp_path


def test_claims_are_judged_by_what_was_measured(told):
    ledger = json.loads((told / "claims.json").read_text())
    effects = {claim["claim"]: claim["effects"] for claim in ledger["claims"]}
    assert effects["The angle steers verbosity."] == pytest.approx([1, 1, 1])
    assert effects["One steered policy matches one that was trained for a single direction."] == pytest.approx([5, 6, 7])
    verdicts = {claim["claim"]: claim["verdict"] for claim in ledger["claims"]}
    assert verdicts["The front rises over the rounds."] == "yes"
    assert verdicts["The reward model that selects overstates the gain (our own check)."] == "yes"


def test_the_page_shows_the_front_by_angle_and_the_table_and_runs_nothing(told):
    page = (told / "index.html").read_text()
    assert "A &lt;b&gt;" in page
    assert "<script" not in page
    assert page.count("<svg") >= 2 + 4 + 1
    assert page.count("<b>") >= 2 * len(ANGLES)
    for said in ("0.0001", "-45°", "45°", "scalar RAFT", "The front by the truth", "By the reward model"):
        assert said in page


@pytest.mark.parametrize(
    ("miss", "said"),
    [(0, "It does in every row."), (1, "1 bin, which counts as diagonal dominance"), (2, "2 bins; within one would be")],
)
def test_the_page_says_whether_the_diagonal_dominates(told, miss, said):
    found = json.loads((told / "evaluation.json").read_text()) | {"off_diagonal": miss, "off_diagonal_model": miss}
    claims = json.loads((told / "claims.json").read_text())
    assert render("A", found, read_curve(told / "rows.csv"), claims).count(said) == 2


def test_the_table_of_rows_is_whole(told):
    with (told / "rows.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 2 * 3
