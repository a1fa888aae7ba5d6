"""Confidence is measured on what could be read, under honest names, every question weighing the same."""

import csv
import json

import numpy as np
import pytest

from tasks.evaluate import confidence
from tasks.evaluate.calibration.scores import calibration_scores
from tasks.evaluate.confidence import Params
from tasks.evaluate.confidence_scores import (
    Asked,
    ClusterRecord,
    by_source,
    faithfulness,
    measure,
    self_consistency,
    share,
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


def test_a_question_is_measured_against_each_right_answer_and_the_known_chance():
    found = measure([asked(say(7), ["red"] * 3 + ["blue"], chances={"red": 0.8, "blue": 0.2})])
    assert found["answers"] == 1
    assert found["brier"] == pytest.approx((3 * 0.3**2 + 0.7**2) / 4)
    assert found["known_error"] == pytest.approx(0.1)


def test_every_question_weighs_the_same_however_many_right_answers_it_has():
    found = measure([asked(say(10), ["red"] * 8), asked(say(10), ["blue"] * 3), asked(say(10), ["red"])])
    assert found["accuracy"] == found["all_accuracy"] == pytest.approx(2 / 3)
    assert found["brier"] == pytest.approx(1 / 3)
    assert found["answers"] == 3


def test_certain_is_who_states_0_or_10():
    assert measure([asked(say(level)) for level in (0, 10, 9, 1)])["certain"] == 0.5


def test_mace_is_no_ece_and_rewards_rounding():
    """Confidence uniform on [0, 1] and calibrated, and the same rounded to 0 or 1."""
    draw = np.random.default_rng(0)
    p = draw.random(100_000)
    right = draw.random(100_000) < p
    honest, rounded = (calibration_scores(level, right, bins=10) for level in (p, p.round()))
    told = [(s["mace"], s["brier"], s["ece"]) for s in (honest, rounded)]
    np.testing.assert_allclose(told, [(1 / 3, 1 / 6, 0), (1 / 4, 1 / 4, 1 / 4)], atol=0.01)


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


def test_naming_by_chance_is_measured_on_the_other_questions_that_were_given_the_same_answer():
    others = {"p": [("red", 50), ("green", 50)], "r": [("white", 50), ("blue", 50)]}
    clusters = CLUSTERS | {q: [ClusterRecord(qid=q, size=n, answer=a) for a, n in given] for q, given in others.items()}
    torn = [asked(say(6, "red", "torn between red and blue"), qid=qid) for qid in "qpr"]
    found = faithfulness(torn[:1] + [asked(say(6, "white", "sure of white"), qid=qid) for qid in "pr"], clusters, 0.05)
    assert found["rationale_precision"] == 1
    assert found["rationale_by_chance"] == 0  # only p was given red too, and there blue does not compete


def test_the_untuned_model_states_the_share_of_its_commonest_answer():
    questions = [one.question for one in (asked("", ["red", "blue"]), asked("", ["red"], qid="none"))]
    (one,) = self_consistency(questions, CLUSTERS)
    assert (one.said.answer, one.said.confidence, one.right) == ("Red", 6, [True, False])


def test_the_share_is_that_of_the_samples_which_gave_the_stated_answer():
    assert share(asked(say(0, "BLUE.")), CLUSTERS) == 0.3
    assert share(asked(say(0, "white")), CLUSTERS) == 0
    assert share(asked(say(0), qid="unknown"), CLUSTERS) == 0


def test_the_histogram_has_eleven_bars():
    rows = stated([asked(say(10)), asked(say(10), ["blue"]), asked(say(0)), asked("")], CLUSTERS)
    assert [row["count"] for row in rows] == [1, *[0] * 9, 2]
    assert (rows[10]["accuracy"], rows[10]["share"]) == (0.5, 0.6)
    assert rows[5]["accuracy"] == rows[5]["share"] == ""


def test_each_source_has_scores_of_its_own():
    found = by_source([asked(say(10), source="a"), asked(say(10), ["blue"], source="b")])
    assert (found["a_brier"], found["b_brier"]) == (0, 1)
    assert by_source([asked(say(10))]) == {}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two models and questions of which every second is answered right by the untuned model, that of an even number."""
    monkeypatch.chdir(tmp_path)
    save(llama(), tmp_path / "models/stage1")
    save(llama(1), tmp_path / "models/quadratic")
    clusters = []
    for part, count in (("rl", 6), ("valid", 2), ("test", 4)):
        numbers = range(count)
        write_records(
            tmp_path / f"sets/{part}.jsonl",
            [Question(qid=f"{part}{n}", prompt=f"w{n % 2}", answers=["w1"], source="s", group="g") for n in numbers],
        )
        clusters += [{"qid": f"{part}{n}", "size": 2, "answer": f"w{1 + n % 2}", "members": [0, 1]} for n in numbers]
    write_records(tmp_path / "sets/clusters.jsonl", clusters)
    return tmp_path


def start(world, models, monkeypatch, tell=None):
    """Run the stage; `tell` gives the texts of a model by its number of calls."""
    if tell:
        calls = iter(tell)
        monkeypatch.setattr(confidence, "respond", lambda *rest: (lambda text: [[text] for _ in rest[-1]])(next(calls)))
    places = {"base": world / "models/stage1", "models": world / models, "sets": world / "sets"}
    places |= {name: world / name for name in ("out", "scores", "histogram")}
    with Lease(world / "work", "test") as lease:
        confidence.main(Params(max_new_tokens=5), Run("sayself-eval", "identity", lease), **places)
    return json.loads((world / "scores").read_text())


def test_all_models_are_measured_beside_the_untuned_one(world, monkeypatch):
    scores = start(world, "models", monkeypatch, [say(6, "w1"), say(9, "w2")])
    assert list(scores["models"]) == ["untuned", "quadratic", "stage1"]
    assert [found["brier"] for found in scores["models"].values()] == pytest.approx([0.5, 0.16, 0.81])
    with (world / "histogram").open() as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "quadratic"]
    assert [int(row["count"]) for row in rows] == [0, 0, 0, 0, 0, 0, 4, *[0] * 4]
    assert float(rows[6]["share"]) == 0.5
    assert len((world / "out/stage1.jsonl").read_text().splitlines()) == 4


def test_a_probe_reads_from_the_hidden_state_what_the_prompt_tells(world, monkeypatch):
    """Right are the even questions, and those have a prompt of their own."""
    assert start(world, "models", monkeypatch, [say(6, "w1")] * 2)["probe_auroc"] == 1


def test_one_model_is_measured_alone_and_a_random_one_says_nothing_of_the_kind(world, monkeypatch):
    scores = start(world, "models/quadratic", monkeypatch)
    assert list(scores["models"]) == ["untuned", "quadratic"]
    assert scores["models"]["quadratic"]["parse_rate"] == 0
    assert "brier" not in scores["models"]["quadratic"]


def test_a_folder_without_models_is_refused(world, monkeypatch):
    with pytest.raises(UserError, match="neither a model folder nor a folder of them"):
        start(world, "sets", monkeypatch)


def test_samples_that_would_all_be_equal_are_refused():
    with pytest.raises(ValueError, match="at temperature 0 all are equal"):
        Params(samples=2)
    assert Params(samples=2, temperature=1.0).samples == 2
