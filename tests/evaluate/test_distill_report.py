"""The study of distillation gathered from an invented run whose effects are known by construction, and its page."""

import csv
import json
import shutil

import pytest

from tasks.evaluate import distill_report, distill_tradeoffs
from tasks.evaluate.distill_tradeoffs import Params
from tasks.evaluate.page.figures import pooled
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json

ECE = {"base": 0.2, "teacher": 0.05, "hard": 0.06, "renormalised": 0.09, "full": 0.05, "trustworthy": 0.04}
TARGETS = list(ECE)[2:]
BINS = ((3, 0.4, 0.3, 10), (8, 0.9, 0.8, 30))
PARAMS = Params(seeds=[0, 1, 2], targets=TARGETS)


def model(ece: float, accuracy: float) -> dict[str, float]:
    rest = {"confidence_error": 2 * ece, "acc_minus_ece": accuracy - ece, "brier": 0.2, "nll": 1.5, "scaled_ece": 0.03}
    return {"accuracy": accuracy, "bayes_accuracy": 0.625, "ece": ece, **rest}


@pytest.fixture
def runs(tmp_path):
    """Three seeds, in which FIRST is .05 better calibrated than the raw top 5, .02 than fine-tuning, and as accurate."""
    for seed in range(3):
        nudge = 0.001 * seed
        publish_json(tmp_path / f"runs/teacher-topk/{seed}.json", {"sft_bytes_a_token": 20.2, "vocabulary": 600})
        found = {"c": 0.3, "mass": 0.9, "accuracy": 0.6, "ece_before": 0.05, "ece_after": 0.02, "n_valid": 96, "grid": []}
        publish_json(tmp_path / f"runs/recalibrate/{seed}.json", found)
        models = {name: model(ece + (nudge if name == "hard" else 0), 0.6) for name, ece in ECE.items()}
        publish_json(tmp_path / f"runs/student-eval/{seed}.json", {"models": models})
        bins = [
            {"bin": 3, "confidence": 0.4, "accuracy": 0.3, "count": 10},
            {"bin": 8, "confidence": 0.9, "accuracy": 0.8, "count": 30},
        ]
        rows = [{"model": name, "scaled": scaled, **row} for name in ECE for scaled in (0, 1) for row in bins]
        publish_curve(tmp_path / f"runs/student-eval/{seed}.csv", rows)
        for target in TARGETS:
            seconds = {"seconds": 8.0 + seed if target == "full" else 4.0}
            publish_json(tmp_path / f"runs/student/{target}/{seed}.json", seconds)
    return tmp_path


def gather(place) -> dict:
    distill_tradeoffs.main(PARAMS, None, runs=place / "runs", scores=place / "scores.json", curve=place / "rows.csv")
    return json.loads((place / "scores.json").read_text())


def test_claims_are_judged_by_what_was_measured(runs):
    claims = {claim["claim"]: claim for claim in gather(runs)["claims"]["claims"]}
    told = [(claim["verdict"], claim["effects"]) for claim in claims.values()]
    assert [verdict for verdict, _ in told] == ["yes"] * 5
    assert told[0][1] == pytest.approx([-0.05] * 3)
    assert told[1][1] == pytest.approx([-0.02, -0.021, -0.022])
    assert told[2][1] == pytest.approx([0.01] * 3)


def test_numbers_are_those_of_all_seeds(runs):
    found = gather(runs)
    assert found["models"]["hard"]["ece"]["mean"] == pytest.approx(0.061)
    assert found["models"]["hard"]["ece"]["sd"] == pytest.approx(0.001)
    assert found["costs"]["full"] == {"seconds": 9.0, "bytes_a_token": 2400.0}
    assert found["costs"]["hard"]["bytes_a_token"] == 0
    assert found["costs"]["trustworthy"]["bytes_a_token"] == pytest.approx(20.2)
    with (runs / "rows.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * len(ECE) * 2 * 2


def test_a_cell_that_is_missing_is_named(runs):
    (runs / "runs/recalibrate/1.json").unlink()
    with pytest.raises(UserError, match=r"recalibrate/1.json: no such file; run the cell"):
        gather(runs)


def test_a_cell_that_is_damaged_is_named(runs):
    (runs / "runs/student/hard/2.json").write_text('{"seconds"')
    with pytest.raises(UserError, match=r"student/hard/2.json: not JSON"):
        gather(runs)


def test_a_student_that_was_not_measured_is_named(runs):
    scores = json.loads((runs / "runs/student-eval/0.json").read_text())
    del scores["models"]["full"]
    publish_json(runs / "runs/student-eval/0.json", scores)
    with pytest.raises(UserError, match=r"student-eval/0.json: no student of target full"):
        gather(runs)


def test_a_single_seed_has_no_spread_and_still_makes_a_page(runs):
    params = Params(seeds=[0], targets=TARGETS)
    distill_tradeoffs.main(params, None, runs=runs / "runs", scores=runs / "scores.json", curve=runs / "rows.csv")
    assert json.loads((runs / "scores.json").read_text())["models"]["hard"]["ece"]["sd"] is None
    assert "±" not in page(runs)


def test_bins_are_pooled_by_how_many_questions_they_hold():
    rows = [
        {"bin": "3", "confidence": "0.32", "accuracy": "0.2", "count": "1"},
        {"bin": "3", "confidence": "0.36", "accuracy": "0.6", "count": "3"},
        {"bin": "9", "confidence": "0.95", "accuracy": "0.9", "count": "4"},
    ]
    (first, share), (second, _) = pooled(rows)
    assert first == pytest.approx((0.35, 0.5))
    assert second == pytest.approx((0.95, 0.9))
    assert share == 0.5


def page(place) -> str:
    places = {"tradeoffs": place / "scores.json", "reliability": place / "rows.csv", "page": place / "index.html"}
    distill_report.main(distill_report.Params(title="A <b>"), None, **places)
    return places["page"].read_text()


def test_the_page_shows_every_model_and_runs_nothing(runs):
    gather(runs)
    told = page(runs)
    assert "A &lt;b&gt;" in told
    assert "<script" not in told
    assert told.count("<svg") == len(ECE) + len(TARGETS) + 5
    for said in ("The teacher", "Fine-tuned on answers", "Raw top 5", "FIRST", "2,400.0", "0.625"):
        assert said in told
    assert told.count("<b>0.040</b>") == 1
    shutil.rmtree(runs / "runs")
    assert page(runs) == told
