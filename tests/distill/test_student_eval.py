"""A student's confidence is measured against distributions that are known, before and after one temperature."""

import csv
import json

import numpy as np
import pytest
import torch

from tasks.distill import student_eval
from tasks.distill.student_eval import measure, softmax
from tasks.runtime.models import load_causal
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tests.tiny import llama, save

TRUTH = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.5, 0.3, 0.1]])


def test_a_student_that_knows_the_truth_is_calibrated_and_has_the_best_accuracy():
    found = measure(np.log(TRUTH.clip(1e-12)), TRUTH)
    assert found["ece"] == pytest.approx(0, abs=1e-9)
    assert found["confidence_error"] == pytest.approx(0, abs=1e-9)
    assert found["accuracy"] == found["bayes_accuracy"] == pytest.approx(0.6)
    assert found["brier"] == pytest.approx((0.7 * 0.3 + 0.5 * 0.5) / 2)
    assert found["nll"] == pytest.approx(-(TRUTH * np.log(TRUTH.clip(1e-12))).sum(1).mean(), abs=1e-6)


def test_a_student_that_is_always_sure_is_off_by_what_it_gets_wrong():
    found = measure(np.log(np.eye(4)[[0, 2]].clip(1e-12)), TRUTH)
    assert found["accuracy"] == pytest.approx((0.7 + 0.3) / 2)
    assert found["ece"] == pytest.approx(0.5)
    assert found["acc_minus_ece"] == pytest.approx(0, abs=1e-9)


@pytest.fixture
def noisy(world):
    rows = [{"prompt": f"w1 w{n}", "answers": ["w2", "w3", "w4"], "probabilities": [0.6, 0.3, 0.1]} for n in range(4)]
    write_records(world / "corpus/noisy.jsonl", rows)
    save(llama(2), world / "students/hard")
    return world


def test_the_stage_reads_the_token_after_each_prompt(run, noisy):
    run(student_eval)
    scores = json.loads((noisy / "student-eval.json").read_text())["models"]["hard"]
    model, tokenizer = load_causal(noisy / "students/hard")
    with torch.no_grad():
        last = [model(torch.tensor([tokenizer(f"w1 w{n}")["input_ids"]])).logits[0, -1] for n in range(4)]
    confidence = torch.stack(last).softmax(-1).max(-1).values.mean().item()
    assert scores["confidence"] == pytest.approx(confidence, abs=1e-5)
    assert scores["bayes_accuracy"] == pytest.approx(0.6)


def test_the_temperature_is_that_of_the_validation_answers(run, noisy):
    """Random answers say nothing of what a decided random model thinks: the flattest temperature is the likeliest."""
    run(student_eval)
    scores = json.loads((noisy / "student-eval.json").read_text())["models"]["base"]
    assert scores["temperature"] > 1
    assert scores["scaled_confidence"] < scores["confidence"]
    assert scores["scaled_accuracy"] == scores["accuracy"]


def test_base_teacher_and_students_are_measured_and_their_bins_add_up_to_the_error(run, noisy):
    run(student_eval)
    models = json.loads((noisy / "student-eval.json").read_text())["models"]
    assert list(models) == ["base", "teacher", "hard"]
    with (noisy / "student-eval.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, scores in models.items():
        for scaled, key in (("0", "ece"), ("1", "scaled_ece")):
            own = [row for row in rows if (row["model"], row["scaled"]) == (name, scaled)]
            assert sum(int(row["count"]) for row in own) == 4
            off = sum(int(row["count"]) * abs(float(row["accuracy"]) - float(row["confidence"])) for row in own)
            assert off / 4 == pytest.approx(scores[key])


def test_answers_that_begin_alike_are_refused(run, noisy):
    write_records(noisy / "corpus/noisy.jsonl", [{"prompt": "w1", "answers": ["w2 w3", "w2"], "probabilities": [0.6, 0.4]}])
    with pytest.raises(UserError, match="'w1': two answers begin with the same token"):
        run(student_eval)


def test_softmax():
    assert softmax(np.array([[1e3, 1e3 - np.log(3)]]))[0] == pytest.approx([0.75, 0.25])
