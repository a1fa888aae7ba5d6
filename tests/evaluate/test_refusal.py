"""Every system of the paper is measured on the same questions, each in the way it is defined."""

import csv
import json

import pytest

from tasks.evaluate import refusal
from tasks.evaluate.refusal import Params, accuracy_by_exposure
from tasks.evaluate.refusal_systems import Heard, compared, majority, systems
from tasks.runtime.lease import Lease
from tasks.runtime.params import UserError
from tasks.runtime.questions import Question
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tasks.runtime.verdicts import VARIANTS
from tests.speaker import questions, speaker, tokenizer
from tests.tiny import save

SYSTEMS = [
    "pretrain_t",
    "pretrain_w",
    "pretrain_w_r",
    "vanilla",
    "vanilla_c",
    "vanilla_u",
    "r_tuning",
    "r_tuning_r",
    "r_tuning_u",
]
ASKED = [Question(id=str(n), prompt="p", answers=["a"], exposure=n % 2) for n in range(4)]


def heard(text: str, confidence: float, **more) -> Heard:
    return Heard(text=text, confidence=confidence, **more)


REFUSED = {"r_tuning": 0.5, "r_tuning_r": 0.5, "r_tuning_u": 1.0}
ANSWERS = {
    "base": [heard(text, 0.5, refused=n == 3) for n, text in enumerate("aabb")],
    "vanilla": [heard("a", 0.9 - n / 5, majority="a" if n else "b", share=0.7, refused=False) for n in range(4)],
    "padding": [heard("a" if n != 3 else "b", 0.6, sure=[0.9, 0.5, 0.2, 0.7][n], sure_gold=0.5) for n in range(4)],
    "replacement": [heard("a" if n < 3 else "b", 0.6, refused=n > 1) for n in range(4)],
    "unsupervised": [heard("b", 0.6, sure=0.1 * n, sure_gold=0.4) for n in range(4)],
}


def test_the_systems_answer_as_they_are_defined():
    said = systems(ASKED, ANSWERS, threshold=0.5)
    assert list(said) == SYSTEMS
    assert said["pretrain_t"].correct == [True, True, False, False]
    assert said["pretrain_t"].willing == [True, True, True, False], "a refusal counts as one though none was taught"
    assert said["r_tuning"].willing == [True, False, False, True], "one half is not more than one half"
    assert said["pretrain_w"].willing == said["r_tuning"].willing
    assert said["pretrain_w"].texts == said["pretrain_t"].texts
    assert said["r_tuning_r"].willing == [True, True, False, False]
    assert said["r_tuning_r"].correct == [True, True, True, False], "right or wrong when it may not refuse"
    assert said["vanilla_c"].correct == said["vanilla_u"].correct == [False, True, True, True]
    assert list(said["vanilla_u"].confidence) == [0.1 * n for n in range(4)]
    assert said["r_tuning"].ranking == [(0.6 + sure) / 2 for sure in (0.9, 0.5, 0.2, 0.7)]
    assert said["vanilla"].ranking == [heard["confidence"] for heard in ANSWERS["vanilla"]]


def test_vanilla_is_compared_at_the_answer_rate_of_each():
    found = compared(ASKED, ANSWERS, systems(ASKED, ANSWERS, 0.5))
    assert found["matched"]["r_tuning"] == {"all": 1}
    assert found["matched"]["r_tuning_u"] == {"all": None}, "it answers nothing"
    assert found["refusal_matched"] == {name: {"all": rate} for name, rate in REFUSED.items()}
    assert found["sure_padding"] == pytest.approx(0.575)
    assert found["sure_gold_unsupervised"] == pytest.approx(0.4)


def test_the_majority_is_the_most_frequent_and_the_first_in_the_alphabet_among_equals():
    assert majority(["b", "a", "b"]) == ("b", pytest.approx(2 / 3))
    assert majority(["b", "a", "A.", "b"]) == ("a", 0.5)


def test_accuracy_is_given_by_exposure():
    assert accuracy_by_exposure(ASKED, [True, False, True, True]) == {"0": 1.0, "1": 0.5}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A base, four variants, test questions with one nobody can answer, and what the base knows of others."""
    monkeypatch.chdir(tmp_path)
    for seed, place in enumerate(["base", *(f"models/{variant}" for variant in VARIANTS)]):
        save(speaker(seed), tmp_path / place)
        tokenizer().save_pretrained(tmp_path / place)
    asked = [question.model_copy(update={"exposure": n % 3, "set": "in"}) for n, question in enumerate(questions(20))]
    write_records(tmp_path / "data/test.jsonl", [*asked, Question(id="nobody", prompt="w1 w1 w1", answers=[], set="unheard")])
    known = [{"qid": f"k{n}", "question": f"w{n} w{n}", "known": n % 2 == 0} for n in range(12)]
    write_records(tmp_path / "data/identify.jsonl", known)
    return tmp_path


def measure(world, out="out", **changed) -> dict[str, bytes]:
    params = Params(**{"threads": 1, "samples": 3, "max_new_tokens": 4, "batch_size": 8, **changed})
    flags = {"base": world / "base", "models": world / "models", "data": world / "data"}
    outs = {"scores": world / f"{out}.json", "rows": world / f"{out}.jsonl", "curve": world / f"{out}.csv"}
    outs["reliability"] = world / f"{out}-reliability.csv"
    with Lease(world / "work", "test") as lease:
        refusal.main(params, Run("refusal-eval", out, lease), **flags, **outs)
    return {name: place.read_bytes() for name, place in outs.items()}


def test_the_stage_publishes_scores_answers_and_curves_and_again_the_same_bytes(world):
    files = measure(world)
    scores = json.loads(files["scores"])
    assert list(scores["systems"]) == SYSTEMS
    assert scores["world"]["d0_share"] == 0.5
    auroc = scores["world"]["probe_auroc"]
    assert scores["world"]["suitable"] is (auroc is not None and auroc >= 0.8)
    rows = [json.loads(line) for line in files["rows"].splitlines()]
    assert len(rows) == 21 * len(SYSTEMS)
    assert not any(row["correct"] for row in rows if row["qid"] == "nobody")
    assert all(0 < row["sure"] < 1 for row in rows if row["sure"] is not None)
    for name, values in scores["systems"].items():
        own = [row for row in rows if row["system"] == name]
        home = [row for row in own if row["qid"] != "nobody"]
        assert values["sets"]["in"]["accuracy"] == pytest.approx(sum(row["correct"] for row in home) / 20)
        assert values["sets"]["in"]["answer_rate"] == pytest.approx(sum(row["willing"] for row in home) / 20)
        assert set(values["refusal_by_exposure"]) == {"0", "1", "2"}
        assert values["refusal_by_set"]["unheard"] == sum(not row["willing"] for row in own if row["qid"] == "nobody")
    curve = list(csv.DictReader(files["curve"].decode().splitlines()))
    assert {(row["set"], row["system"]) for row in curve} == {("in", name) for name in SYSTEMS}
    bins = list(csv.DictReader(files["reliability"].decode().splitlines()))
    for name in SYSTEMS:
        assert sum(int(row["count"]) for row in bins if row["system"] == name) == 20
    assert measure(world, "again") == files


def test_a_variant_that_is_not_there_is_named_before_anything_is_asked(world):
    (world / "models/padding/config.json").unlink()
    with pytest.raises(UserError, match="models/padding: incomplete"):
        measure(world)
    assert not (world / "out.json").exists()
