"""Recalibration agrees with the method's numbers, keeps what it must, and its one value is chosen on validation data."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.distill import recalibrate, teacher_topk
from tasks.distill.rows import read_rows
from tasks.distill.topk_file import read_header
from tasks.distill.trustworthy import (
    Recalibration,
    choose,
    ece,
    moved,
    reliability,
    renormalised,
    smoothing,
    temperature,
    trustworthy,
)
from tasks.evaluate.calibration import binned
from tasks.runtime.models import load_causal, load_tokenizer
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records

SURE, UNSURE = [0.95, 0.03, 0.01, 0.005, 0.005], [0.60, 0.20, 0.10, 0.06, 0.04]
PROBS = arrays(float, (6, 5), elements=st.floats(0, 1)).map(lambda p: -np.sort(-p, axis=1) / max(1, p.sum(1).max()))


@pytest.mark.parametrize(
    ("probs", "c", "first"),
    [
        *[(SURE, c, first) for c, first in ((0.1, 0.9997), (0.2, 0.9644), (0.3, 0.8504), (0.5, 0.6198), (1, 0.3896))],
        *[(UNSURE, c, first) for c, first in ((0.1, 0.9678), (0.2, 0.7433), (0.3, 0.5642), (0.5, 0.4027), (1, 0.2915))],
    ],
)
def test_the_methods_numbers(probs, c, first):
    assert trustworthy([probs], c)[0, 0] == pytest.approx(first, abs=1e-4)


@given(PROBS, st.floats(0.02, 1))
def test_order_is_kept_and_shares_sum_to_one(probs, c):
    shares = trustworthy(probs, c)
    assert (np.diff(shares, axis=1) <= 1e-12).all()
    assert shares.sum(1) == pytest.approx(np.ones(6))
    assert np.isfinite(shares).all()


def test_the_ends_of_c():
    """Towards infinity all are alike; at 1 no first choice can have more than e / (e + 4); small c leaves only the first."""
    assert trustworthy([SURE], 1e6)[0] == pytest.approx([0.2] * 5, abs=1e-5)
    assert trustworthy([[1, 0, 0, 0, 0]], 1)[0, 0] == pytest.approx(np.e / (np.e + 4))
    assert trustworthy([SURE], 0.02)[0, 0] == pytest.approx(1)


def test_smoothing_is_in_probability_space_and_leaves_the_teacher_alone():
    probs = np.array([[0.606, 0.25, 0.1, 0.03, 0.01]])
    before = probs.copy()
    assert moved(probs, 0.1)[0] == pytest.approx([0.506, 0.275, 0.125, 0.055, 0.035])
    assert smoothing(probs, 0.1)[0] == pytest.approx(np.array([0.506, 0.275, 0.125, 0.055, 0.035]) / 0.996)
    assert (probs == before).all()


def test_smoothing_clips_before_it_renormalises():
    shares = smoothing([[0.05, 0.04, 0.01, 0, 0]], 0.1)
    assert (shares > 0).all()
    assert shares.sum() == pytest.approx(1)


def test_logit_temperature_is_that_of_the_logits():
    logits = np.array([[3.0, 1.0, 0.5, 0.2, -1.0]])
    probs = np.exp(logits) / np.exp(logits).sum()
    expected = np.exp(logits / 1.7) / np.exp(logits / 1.7).sum()
    assert temperature(probs, 1.7) == pytest.approx(expected)
    assert renormalised(probs * 0.9) == pytest.approx(probs)


@given(
    arrays(float, 40, elements=st.one_of(st.floats(0, 1), st.sampled_from([n / 10 for n in range(11)]))),
    arrays(bool, 40),
)
def test_ece_is_that_of_the_evaluation(confidence, correct):
    for given_as in (confidence, confidence.astype(np.float32)):
        assert ece(given_as, correct) == pytest.approx(binned.ece(given_as, correct, bins=10))


def test_the_bins_are_those_of_the_evaluation():
    draw = np.random.default_rng(1)
    confidence, correct = np.append(draw.random(60).round(2), [0, 0.1, 0.7, 1]), draw.random(64) < 0.6
    expected = binned.reliability_rows(confidence, correct, bins=10)
    for row, other in zip(reliability(confidence, correct), expected, strict=True):
        assert row == pytest.approx({key: other[key] for key in row})


def test_ece_by_construction():
    """Perfect calibration 0; always sure and right in 7 of 10 cases .3; a confidence on an edge counts with the bin below."""
    right = np.arange(10) < 7
    assert ece(np.full(10, 0.7), right) == pytest.approx(0)
    assert ece(np.ones(10), right) == pytest.approx(0.3)
    assert ece([0.65, 0.7], [True, False]) == pytest.approx(abs(1.35 - 1) / 2)
    assert ece([0.7, 0.75], [True, False]) == pytest.approx((0.3 + 0.75) / 2)


def test_the_search_returns_the_least_of_its_stored_grid():
    draw = np.random.default_rng(0)
    probs = -np.sort(-draw.dirichlet(np.ones(5), 500), axis=1)
    choice = choose("trustworthy", probs, draw.random(500) < 0.5)
    assert [value for value, _ in choice.grid] == [pytest.approx(0.02 * n) for n in range(1, 51)]
    assert choice.ece == min(tried for _, tried in choice.grid)
    assert (choice.value, choice.ece) in choice.grid


def test_a_teacher_that_is_too_sure_is_made_less_sure():
    """It says .95 and is right in six of ten cases: c near .5 (first share .62) is right, and c = .3 (.85) is not."""
    choice = choose("trustworthy", np.array([SURE] * 100), np.arange(100) < 60)
    assert choice.value == pytest.approx(0.52, abs=0.021)
    assert choice.ece < 0.02


def test_the_stage_stores_what_it_found(run, world):
    run(teacher_topk)
    run(recalibrate)
    found = Recalibration.model_validate(json.loads((world / "recalibrate.json").read_text()))
    assert found.n_valid == 12
    assert found.teacher == read_header(world / "topk/valid.topk").teacher
    assert found.ece_after == min(tried for _, tried in found.grid)
    assert dict(found.grid)[found.c] == found.ece_after
    assert set(found.values) == {"trustworthy", "temperature", "smoothing", "renormalised"}


def test_c_is_chosen_where_an_answer_begins_and_nowhere_else(run, world):
    """Ends, of which every teacher is sure and right, would make any teacher look calibrated and c small."""
    run(teacher_topk)
    run(recalibrate)
    found = Recalibration.model_validate(json.loads((world / "recalibrate.json").read_text()))
    model, tokenizer = load_causal(world / "teacher")
    records = [json.loads(line) for line in (world / "sets/valid.jsonl").read_text().splitlines()]
    with torch.no_grad():
        logits = [model(torch.tensor([tokenizer(record["prompt"])["input_ids"]])).logits[0, -1] for record in records]
    top, ids = torch.stack(logits).softmax(-1).topk(5)
    gold = [tokenizer(record["completion"])["input_ids"][0] for record in records]
    correct = ids[:, 0].numpy() == np.array(gold)
    assert found.accuracy == pytest.approx(correct.mean())
    assert found.mass == pytest.approx(top.sum(-1).mean().item(), abs=1e-4)
    assert found.ece_before == pytest.approx(ece(top[:, 0].numpy(), correct), abs=1e-4)
    assert found.ece_after == pytest.approx(choose("trustworthy", top.double().numpy(), correct).ece, abs=1e-3)


def test_an_answer_begins_once_however_many_stand_in_a_row(world):
    tokenizer = load_tokenizer(world / "base")
    records = [json.loads(line) for line in (world / "sets/valid.jsonl").read_text().splitlines()]
    data = read_rows(tokenizer, world / "sets/valid.jsonl", 24)
    assert len(data.rows) < len(records)
    begun = sorted(tokenizer.decode(data.targets[data.begins]).split())
    assert begun == sorted(record["completion"].split()[0] for record in records)


def test_validation_rows_other_than_the_teachers_are_refused(run, world):
    run(teacher_topk)
    write_records(world / "sets/valid.jsonl", [{"prompt": "w1", "completion": "w2"}])
    with pytest.raises(UserError, match="valid.topk: made from other data than is read here"):
        run(recalibrate)
