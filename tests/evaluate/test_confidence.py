"""Confidence is measured on what could be read, under honest names; a checkpoint is chosen by a proper score."""

import csv
import json

import numpy as np
import pytest

from tasks.evaluate import confidence
from tasks.evaluate.calibration.scores import calibration_scores
from tasks.evaluate.confidence import (
    Asked,
    ClusterRecord,
    Params,
    best,
    by_source,
    faithfulness,
    measure,
    selection_brier,
    self_consistency,
    stated,
)
from tasks.runtime.confidence import Question, parse_response, write_response
from tasks.runtime.lease import Lease
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tests.tiny import llama, save


def asked(text, golds=("red",), qid="q", source="s", chances=None):
    return Asked(
        Question(qid=qid, prompt="?", answers=list(golds), source=source, group=qid, chances=chances), text, parse_response(text)
    )


def say(level, answer="red", rationale="sure of red"):
    return write_response(answer, rationale, level)


def test_only_what_was_read_is_calibrated_and_the_rest_counted():
    found = measure([asked(say(10)), asked(say(0), ["blue"]), asked("Answer: red\nConfidence: high"), asked("nothing")])
    assert found["parse_rate"] == 0.5
    assert found["all_accuracy"] == 0.5
    assert (found["answers"], found["accuracy"], found["brier"], found["auroc"]) == (2, 0.5, 0, 1)
    assert (found["conf_pos"], found["conf_neg"]) == (1, 0)


def test_without_one_that_can_be_read_there_is_no_score_instead_of_a_0():
    assert measure([asked("nothing"), asked("Answer: red\nConfidence: 85")]) == {"parse_rate": 0, "all_accuracy": 0.5}


def test_an_answer_that_merely_contains_the_right_one_is_wrong():
    assert measure([asked(say(5, "true or false"), ["true"]), asked(say(5, "True."), ["true"])])["accuracy"] == 0.5


def test_a_question_counts_once_for_each_right_answer_and_the_known_chance_is_compared():
    found = measure([asked(say(7), ["red"] * 3 + ["blue"], chances={"red": 0.8, "blue": 0.2})])
    assert found["answers"] == 4
    assert found["brier"] == pytest.approx((3 * 0.3**2 + 0.7**2) / 4)
    assert found["known_error"] == pytest.approx(0.1)


def test_mace_is_no_ece_and_rewards_rounding():
    """Confidence uniform on [0, 1] and calibrated, and the same rounded to 0 or 1."""
    draw = np.random.default_rng(0)
    p = draw.random(100_000)
    right = draw.random(100_000) < p
    honest, rounded = (calibration_scores(level, right, bins=10) for level in (p, p.round()))
    told = [(s["mace"], s["brier"], s["ece"]) for s in (honest, rounded)]
    np.testing.assert_allclose(told, [(1 / 3, 1 / 6, 0), (1 / 4, 1 / 4, 1 / 4)], atol=0.01)


def test_the_calibrated_one_is_chosen_and_silence_never_is():
    golds = ["red"] * 7 + ["blue"] * 3
    briers = {f"says {level}": selection_brier([asked(say(level), golds)]) for level in range(11)}
    briers["silent"] = selection_brier([asked("Answer: red", golds)])
    briers["mostly silent"] = selection_brier([asked(say(7), golds), *[asked("Answer: red", golds)] * 3])
    assert best(briers) == "says 7"
    assert max(briers, key=lambda name: briers[name]) == "silent"
    assert briers["mostly silent"] > briers["says 10"]


CLUSTERS = {
    "q": [
        ClusterRecord(qid="q", size=size, answer=answer)
        for answer, size in (("Red", 60), ("blue", 30), ("green", 6), ("grey", 4))
    ]
}


@pytest.mark.parametrize(
    ("rationale", "precision", "recall"),
    [
        ("torn between red and blue and green", 1, 1),
        ("torn between red and blue", 1, 0.5),
        ("torn between red and grey", 0, 0),
        ("torn between red and blue and white", 0.5, 0.5),
        ("sure of red", None, 0),
        ("I hesitate between Red, blue and grey.", 0.5, 0.5),
    ],
)
def test_faithful_is_to_name_the_answers_that_compete(rationale, precision, recall):
    found = faithfulness([asked(say(6, "red", rationale))], CLUSTERS, 0.05)
    assert found.get("rationale_precision") == precision
    assert found["rationale_recall"] == recall


def test_without_rationales_nothing_is_said_of_them():
    assert faithfulness([asked("Answer: red\nConfidence: 6")], CLUSTERS, 0.05) == {}


def test_self_consistency_is_the_share_of_the_commonest_answer():
    found = self_consistency([asked(say(3), ["red", "blue"]), asked("", ["red", "blue"])], CLUSTERS)
    assert found["accuracy"] == 0.5
    assert found["brier"] == pytest.approx((0.4**2 + 0.6**2) / 2)


def test_the_histogram_has_eleven_bars():
    rows = stated([asked(say(10)), asked(say(10), ["blue"]), asked(say(0)), asked("")])
    assert [row["count"] for row in rows] == [1, *[0] * 9, 2]
    assert rows[10]["accuracy"] == 0.5
    assert rows[5]["accuracy"] == ""


def test_each_source_has_scores_of_its_own():
    found = by_source([asked(say(10), source="a"), asked(say(10), ["blue"], source="b")])
    assert (found["a_brier"], found["b_brier"]) == (0, 1)
    assert by_source([asked(say(10))]) == {}


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(llama(), tmp_path / "course/iteration-2")
    save(llama(1), tmp_path / "course/iteration-10")
    for part in ("valid", "test"):
        questions = [Question(qid=f"{part}{n}", prompt=f"w{n}", answers=["w1"], source="s", group="g") for n in range(3)]
        write_records(tmp_path / f"sets/{part}.jsonl", questions)
    write_records(tmp_path / "sets/clusters.jsonl", [{"qid": "test0", "size": 2, "answer": "w1", "members": [0, 1]}])
    return tmp_path


def start(world, models, monkeypatch, tell=None):
    """Run the stage; `tell` gives the texts of a model by its number of calls."""
    if tell:
        calls = iter(tell)
        monkeypatch.setattr(confidence, "respond", lambda *rest: (lambda text: [[text] for _ in rest[-1]])(next(calls)))
    places = {"models": world / models, "sets": world / "sets"}
    places |= {name: world / name for name in ("out", "scores", "histogram")}
    with Lease(world / "work", "test") as lease:
        confidence.main(Params(threads=1, max_new_tokens=5), Run("sayself-eval", "identity", lease), **places)
    return json.loads((world / "scores").read_text())


def test_the_iteration_with_the_best_brier_on_the_validation_questions_is_measured(world, monkeypatch):
    scores = start(world, "course", monkeypatch, [say(6, "w1"), say(9, "w1"), say(2, "w1")])
    assert list(scores["validation_brier"]) == ["iteration-2", "iteration-10"]
    assert scores["chosen"] == "iteration-10"
    assert scores["brier"] == pytest.approx(0.64)
    assert scores["self_consistency_brier"] == 0
    with (world / "histogram").open() as file:
        assert [int(row["count"]) for row in csv.DictReader(file)] == [0, 0, 3, *[0] * 8]
    assert len((world / "out").read_text().splitlines()) == 3


def test_a_random_model_that_says_nothing_of_the_kind_is_measured_all_the_same(world, monkeypatch):
    scores = start(world, "course/iteration-2", monkeypatch)
    assert scores["parse_rate"] == 0
    assert "brier" not in scores
    assert scores["validation_brier"] == {}


def test_a_folder_without_models_is_refused(world, monkeypatch):
    with pytest.raises(UserError, match="neither a model folder nor one with iteration-K"):
        start(world, "sets", monkeypatch)
