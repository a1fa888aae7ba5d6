"""The study of stated confidence gathered from an invented run whose effects are known by construction, and its page."""

import json
import shutil

import pytest

from tasks.evaluate import confide_report, confide_tradeoffs
from tasks.evaluate.confide_tradeoffs import MODELS, REWARDS, Params
from tasks.evaluate.page.confided import pooled
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish_curve, publish_json

ECE = {"untuned": 0.15, "bare": 0.22, "stage1": 0.2, "quadratic": 0.08, "linear": 0.25}
DATA = {"rows": 200, "test": 100, "kept_gold": 0.7, "mean_label": 0.6, "keep": "majority", "clusters": "exact match", "rl": 9}


def model(name: str, seed: int) -> dict[str, float]:
    scores = {"all_accuracy": 0.5, "ece": ECE[name] + 0.001 * seed, "brier": ECE[name], "auroc": 0.8, "parse_rate": 1.0}
    scores |= {"certain": 0.9 if name == "linear" else 0.2, "mace": 0.3, "mean_confidence": 0.5}
    named = {"rationale_precision": 0.4, "rationale_recall": 0.3, "rationale_by_chance": 0.1}
    return scores | (named if name not in ("untuned", "bare") else {})


@pytest.fixture
def runs(tmp_path):
    """Three seeds, in which stage 2 takes .12 off the ECE, keeps the accuracy, and the linear reward polarises."""
    for seed in range(3):
        publish_json(tmp_path / f"runs/confidence-data/{seed}.json", {**DATA, "summariser": "clusters"})
        models = {name: model(name, seed) for name in MODELS}
        publish_json(tmp_path / f"runs/sayself-eval/{seed}.json", {"probe_auroc": 0.81, "models": models})
        rows = [
            {"model": name, "confidence": level, "count": 10 if level in (2, 9) else 0, "accuracy": 0.4, "share": 0.5}
            for name in MODELS
            for level in range(11)
        ]
        publish_curve(tmp_path / f"runs/sayself-eval/{seed}.csv", rows)
        for number, reward in enumerate(REWARDS):
            publish_json(tmp_path / f"runs/sayself-rl/{reward}/{seed}.json", {"chosen": 2 - number})
            course = [
                {
                    "iteration": k,
                    "valid_reward": 0.1 * k,
                    "valid_accuracy": 0.5,
                    "valid_confidence": 5,
                    "kl": 0.2 if k < 2 else "",
                }
                for k in range(3)
            ]
            publish_curve(tmp_path / f"runs/sayself-rl/{reward}/{seed}.csv", course)
    return tmp_path


def gather(place, seeds=(0, 1, 2)) -> dict:
    outs = {"scores": place / "scores.json", "stated": place / "stated.csv", "courses": place / "courses.csv"}
    confide_tradeoffs.main(Params(seeds=list(seeds)), None, runs=place / "runs", **outs)
    return json.loads((place / "scores.json").read_text())


def page(place) -> str:
    places = {"tradeoffs": place / "scores.json", "stated": place / "stated.csv", "courses": place / "courses.csv"}
    confide_report.main(confide_report.Params(title="A <b>"), None, **places, page=place / "index.html")
    return (place / "index.html").read_text()


def test_claims_are_judged_by_what_was_measured(runs):
    claims = gather(runs)["claims"]["claims"]
    assert [claim["verdict"] for claim in claims] == ["yes"] * 8
    effects = [claim["effects"][0] for claim in claims]
    assert effects == pytest.approx([-0.12, -0.12, 0.02, 0.02, 0.7, 0.3, -0.02, 0.3])


def test_what_a_seed_lacks_is_not_measured_instead_of_0(runs):
    found = json.loads((runs / "runs/sayself-eval/1.json").read_text())
    del found["models"]["quadratic"]["rationale_by_chance"], found["models"]["quadratic"]["auroc"]
    publish_json(runs / "runs/sayself-eval/1.json", found)
    told = gather(runs)
    assert [len(claim["effects"]) for claim in told["claims"]["claims"]] == [3, 3, 3, 3, 3, 2, 3, 2]
    assert "auroc" not in told["models"]["quadratic"]
    assert "–" in page(runs)


def test_numbers_are_those_of_all_seeds(runs):
    found = gather(runs)
    assert found["models"]["quadratic"]["ece"]["mean"] == pytest.approx(0.081)
    assert found["models"]["quadratic"]["ece"]["sd"] == pytest.approx(0.001)
    assert found["seeds"]["2"]["chosen"] == {"quadratic": 2, "linear": 1}
    assert len((runs / "courses.csv").read_text().splitlines()) == 1 + 3 * 2 * 3


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda place: (place / "confidence-data/1.json").unlink(), r"confidence-data/1.json: no such file; run the cell"),
        (lambda place: (place / "sayself-rl/linear/2.json").write_text("{"), r"sayself-rl/linear/2.json: not JSON"),
        (
            lambda place: publish_json(place / "sayself-eval/0.json", {"probe_auroc": None, "models": {"untuned": {}}}),
            "sayself-eval/0.json: no model bare; make it",
        ),
    ],
)
def test_a_cell_that_is_missing_or_damaged_is_named(runs, damage, said):
    damage(runs / "runs")
    with pytest.raises(UserError, match=said):
        gather(runs)


def test_a_model_of_which_nothing_could_be_read_still_has_its_place(runs):
    for seed in range(3):
        found = json.loads((runs / f"runs/sayself-eval/{seed}.json").read_text())
        found["models"]["linear"] = {"all_accuracy": 0.1, "parse_rate": 0.0}
        found["probe_auroc"] = None
        publish_json(runs / f"runs/sayself-eval/{seed}.json", found)
    assert gather(runs)["claims"]["claims"][4]["effects"] == []
    assert "not measured" in page(runs)


def test_a_single_seed_has_no_spread_and_still_makes_a_page(runs):
    assert gather(runs, [0])["models"]["stage1"]["ece"]["sd"] is None
    assert "±" not in page(runs)


def test_what_was_stated_is_pooled_by_how_often():
    rows = [
        {"confidence": "3", "count": "1", "accuracy": "0.2"},
        {"confidence": "3", "count": "3", "accuracy": "0.6"},
        {"confidence": "5", "count": "0", "accuracy": ""},
        {"confidence": "9", "count": "4", "accuracy": "0.9"},
    ]
    (first, weight), (second, _) = pooled(rows, "accuracy")
    assert first == pytest.approx((0.3, 0.5))
    assert second == pytest.approx((0.9, 0.9))
    assert weight == 0.5


def test_the_page_shows_every_model_names_the_stand_in_and_runs_nothing(runs):
    gather(runs)
    told = page(runs)
    assert "A &lt;b&gt;" in told
    assert "<script" not in told
    assert told.count("<svg") == 4 + 4 + 4 + 2 + 8
    for said in (
        "Stage 1 without rationales",
        "SaySelf: stage 2",
        "a stand-in for an external language model",
        "0.2 nats",
        "MACE",
    ):
        assert said.lower() in told.lower() or said == "0.2 nats"
    assert "0.200 nats" in told
    assert told.count("<b>0.081</b>") == 1
    shutil.rmtree(runs / "runs")
    assert page(runs) == told
