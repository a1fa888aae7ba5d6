"""What the training stages share: an order that hangs on the seed alone, curves, and batches that no split can change."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainingArguments

from tasks.runtime.fit.attendant import fit
from tasks.runtime.fit.params import FitParams
from tasks.runtime.fit.plan import Plan, thinned
from tasks.runtime.fit.trainer import PackedLoss, arguments, chunks, mean_loss
from tasks.runtime.launch import Place
from tasks.runtime.lease import Lease
from tasks.runtime.packing import collate, pack, packed_loss
from tasks.runtime.stage import Run
from tests.tiny import llama


class Params(FitParams):
    """Params of no stage."""

    section = "toy"


def plan(rows: int, **params) -> Plan:
    return Plan(Run("toy", "identity", Lease(Path("none"), "toy")), Params(**params), Place(), [7] * rows)


@given(st.integers(1, 60), st.floats(0.1, 5), st.integers(1, 16), st.integers(0, 3))
def test_an_order_is_made_of_whole_batches_and_as_even_as_it_can_be(rows, epochs, batch_size, seed):
    made = plan(rows, epochs=epochs, batch_size=batch_size, seed=seed)
    assert len(made.order) == made.steps * batch_size
    assert abs(len(made.order) - rows * epochs) <= max(batch_size / 2, batch_size - rows * epochs)
    times = Counter(made.order)
    assert max(times.values()) - min(times[row] for row in range(rows)) <= 1, "no row is seen twice more than another"
    assert made.order == plan(rows, epochs=epochs, batch_size=batch_size, seed=seed).order


def test_epochs_are_shuffled_anew_and_by_the_seed():
    first = plan(50, epochs=2, batch_size=50).order
    assert sorted(first[:50]) == sorted(first[50:]) == list(range(50))
    assert first[:50] != first[50:] != list(range(50))
    assert first != plan(50, epochs=2, batch_size=50, seed=1).order


def test_rows_of_a_lower_rank_come_first_in_every_epoch():
    made = replace(plan(50, epochs=2, batch_size=50), ranks=[row % 2 for row in range(50)])
    for epoch in (made.order[:50], made.order[50:]):
        assert [row % 2 for row in epoch] == [0] * 25 + [1] * 25
        assert epoch != sorted(epoch, key=lambda row: (row % 2, row))


def test_tokens_seen_are_counted_by_step():
    assert plan(8, epochs=1, batch_size=2).seen == [14, 28, 42, 56]


@given(st.integers(1, 1000), st.integers(1, 50))
def test_a_thinned_curve_keeps_the_end_and_the_mean(steps, points):
    curve = [{"step": n + 1, "loss": 1 / (n + 1), "learning_rate": 0.1, "tokens": 7 * n} for n in range(steps)]
    thin = thinned(curve, points)
    assert len(thin) <= points
    assert {name: thin[-1][name] for name in ("step", "tokens")} == {"step": steps, "tokens": 7 * steps - 7}
    ends = [0, *(row["step"] for row in thin)]
    weighted = sum(row["loss"] * (end - start) for row, start, end in zip(thin, ends, ends[1:], strict=False))
    assert weighted == pytest.approx(math.fsum(row["loss"] for row in curve))


def test_a_short_curve_stays_as_it_is():
    curve = [{"step": n, "loss": 0.1 * n, "tokens": n} for n in range(1, 6)]
    assert thinned(curve) == curve


def test_chunks_hold_every_row_once():
    assert [list(chunk) for chunk in chunks([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]
    assert [list(chunk) for chunk in chunks([1, 2], 0)] == [[1], [2]], "at least one a chunk"


@pytest.fixture
def rows():
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 30, (40,), generator=draw).tolist()
    ids = [torch.randint(4, 44, (length,), generator=draw).tolist() for length in lengths]
    return pack([(one, [-100] * (len(one) // 2) + one[len(one) // 2 :]) for one in ids], 32)


def trained(rows, tmp_path, params: Params, most: int, monkeypatch) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Train on `rows` with at most `most` rows a pass; return curve and weights."""
    monkeypatch.setattr("tasks.runtime.fit.trainer.TOKENS_A_PASS", most * params.max_length)
    monkeypatch.chdir(tmp_path)
    made = Plan(Run("toy", f"by{most}", Lease(tmp_path, "toy")), params, Place(), [len(row["input_ids"]) for row in rows])
    model = llama()
    trainer = PackedLoss(
        model,
        arguments(TrainingArguments, made),
        train_dataset=[rows[row] for row in made.order],
        data_collator=lambda some: collate(some, 0),
    )
    return fit(trainer, made), model.state_dict()


def test_a_batch_in_several_passes_trains_like_a_batch_in_one(rows, tmp_path, monkeypatch):
    """The loss is a mean over the tokens of the whole batch: rows with few learned tokens do not weigh more."""
    params = Params(batch_size=8, max_length=32, epochs=3, threads=1)
    whole, weights = trained(rows, tmp_path, params, 8, monkeypatch)
    parts, same = trained(rows, tmp_path, params, 2, monkeypatch)
    assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in whole], abs=1e-5)
    for name, values in weights.items():
        torch.testing.assert_close(same[name], values, atol=1e-4, rtol=0, msg=name)


def test_the_first_loss_is_the_mean_over_the_tokens_of_the_batch(rows, tmp_path, monkeypatch):
    params = Params(batch_size=8, max_length=32, epochs=1, threads=1)
    made = plan(len(rows), batch_size=8, max_length=32)
    with torch.no_grad():
        expected = packed_loss(llama(), collate([rows[row] for row in made.order[:8]], 0)).item()
    curve, _ = trained(rows, tmp_path, params, 2, monkeypatch)
    assert curve[0]["loss"] == pytest.approx(expected, abs=1e-5)


def test_the_rate_rises_to_its_peak_and_falls_to_nothing(rows, tmp_path, monkeypatch):
    params = Params(batch_size=2, max_length=32, epochs=4, threads=1, warmup=0.25, learning_rate=0.001)
    rates = [row["learning_rate"] for row in trained(rows, tmp_path, params, 8, monkeypatch)[0]]
    steps, peak = len(rates), rates.index(max(rates))
    assert peak == round(0.25 * steps)
    assert rates[peak] == pytest.approx(0.001)
    half = (steps - peak) // 2 + peak
    expected = 0.0005 * (1 + math.cos(math.pi * (half - peak) / (steps - peak)))
    assert rates[half] == pytest.approx(expected), "cosine"


def test_a_mean_loss_counts_tokens_and_not_rows(rows, tmp_path):
    made = Plan(Run("toy", "mean", Lease(tmp_path, "toy")), Params(max_length=32), Place(), [1] * len(rows))
    trainer = PackedLoss(llama(), arguments(TrainingArguments, made), train_dataset=rows)
    with torch.no_grad():
        expected = packed_loss(llama(), collate(rows, 0)).item()
    assert mean_loss(trainer, made, rows, 0) == pytest.approx(expected, abs=1e-5)
