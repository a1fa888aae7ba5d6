"""The student learns what the file says of the teacher, however rows are batched; wrong files are refused."""

import json

import pytest
import torch

from tasks.distill import recalibrate, student, teacher_topk
from tasks.distill.rows import read_rows
from tasks.distill.student import Batches, matching
from tasks.distill.topk_file import TopK
from tasks.distill.trustworthy import Recalibration
from tasks.runtime.models import load_causal, load_tokenizer
from tasks.runtime.packing import learned_logits, shifted
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tests.tiny import WORDS, llama, save, word_tokenizer

TARGETS = ["trustworthy", "temperature", "smoothing", "renormalised", "rest", "full", "hard"]


@pytest.fixture
def passed(run, world):
    """The world after the teacher's pass and the choice of c."""
    run(teacher_topk)
    run(recalibrate)
    return world


def batches(world, target: str) -> Batches:
    data = read_rows(load_tokenizer(world / "base"), world / "sets/sft.jsonl", 24)
    found = Recalibration.model_validate_json((world / "recalibrate.json").read_text())
    return Batches(data, TopK(world / "topk/sft.topk"), 0, target, found)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [1, 3, 4])
def test_a_batch_costs_what_its_rows_cost_one_by_one(passed, target, size):
    """Batches of 1, 3 and 4 rows, the last one partial, padded or not; and a row twice has the mean loss of the row once."""
    made, model = batches(passed, target), llama()
    measure = matching(target, llama(1) if target == "full" else None)
    rows = made.numbered[: max(1, len(made.numbered) - 1)]
    whole = sum(measure(model, made(rows[start : start + size])).item() for start in range(0, len(rows), size))
    single = [measure(model, made([row])).item() for row in rows]
    assert whole == pytest.approx(sum(single), rel=1e-5)
    assert measure(model, made([rows[0], rows[0]])).item() / 2 == pytest.approx(single[0], rel=1e-5)


def test_the_batch_holds_the_files_positions_in_any_order_of_rows(passed):
    made = batches(passed, "rest")
    chosen = [made.numbered[number] for number in (2, 0)]
    batch = made(chosen)
    _, learned = shifted(batch["labels"])
    expected = [made.file.read(made.data.offsets[number], made.data.offsets[number + 1]) for number in (2, 0)]
    assert batch["top_ids"][learned].tolist() == [ids for part, _ in expected for ids in part.tolist()]
    assert batch["top_probs"][learned].tolist() == [probs for _, part in expected for probs in part.tolist()]
    assert batch["top_probs"][~learned].abs().sum() == 0


def test_recalibrated_targets_sum_to_one(passed):
    for target in ("trustworthy", "temperature", "smoothing", "renormalised"):
        batch = batches(passed, target)(batches(passed, target).numbered)
        _, learned = shifted(batch["labels"])
        assert torch.allclose(batch["top_probs"][learned].sum(-1), torch.ones(int(learned.sum())))


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_learned_outside_the_mask(passed, target):
    """The gradient at the last layer is exactly zero at every position that predicts no learned token, and nowhere else."""
    made, model, kept = batches(passed, target), llama(), []
    model.model.norm.register_forward_hook(lambda _, __, output: kept.append(output))
    batch = made(made.numbered[:3])
    loss = matching(target, llama(1) if target == "full" else None)(model, batch)
    kept[0].retain_grad()
    loss.backward()
    moved = kept[0].grad.abs().sum(-1) > 0
    assert (moved == shifted(batch["labels"])[1]).all()


def test_a_student_that_is_the_teacher_loses_nothing_to_the_whole_of_it(passed):
    made = batches(passed, "full")
    assert matching("full", llama(1))(llama(1), made(made.numbered)).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("target", ["trustworthy", "rest", "full"])
def test_it_comes_to_think_what_the_teacher_thinks(run, passed, target):
    run(student, target=target, epochs=40)
    model, _ = load_causal(passed / "model")
    batch = batches(passed, "rest")(batches(passed, "rest").numbered)
    kind = batches(passed, target)
    wanted = batches(passed, "trustworthy" if target == "trustworthy" else "rest")(kind.numbered)["top_probs"]
    _, learned = shifted(batch["labels"])
    with torch.no_grad():
        before, after = (learned_logits(m, batch).softmax(-1).gather(1, batch["top_ids"][learned]) for m in (llama(0), model))
    far = (before - wanted[learned]).abs().sum(-1).mean()
    near = (after - wanted[learned]).abs().sum(-1).mean()
    assert near < far / 3


def test_what_the_scores_say_and_that_nothing_is_left_behind(run, passed):
    run(student)
    scores = json.loads((passed / "student.json").read_text())
    found = json.loads((passed / "recalibrate.json").read_text())
    assert scores["c"] == found["c"]
    assert scores["learned_tokens"] == len(TopK(passed / "topk/sft.topk"))
    assert scores["valid_loss"] > 0
    assert not list(passed.glob(".temper/checkpoints/*/*"))


def test_a_student_with_another_tokenizer_is_refused(run, passed):
    word_tokenizer([*WORDS[1:], WORDS[0]]).save_pretrained(passed / "base")
    with pytest.raises(UserError, match="sft.topk: its token ids are those of another tokenizer"):
        run(student)


def test_other_data_is_refused(run, passed):
    write_records(passed / "sets/sft.jsonl", [{"prompt": "w1", "completion": "w2"}] * 3)
    with pytest.raises(UserError, match="sft.topk: made from other data than is read here"):
        run(student)


def test_rows_of_another_length_are_refused(run, passed):
    with pytest.raises(UserError, match="or packed into rows of another max_length"):
        run(student, max_length=32)


def test_a_value_chosen_for_another_teacher_is_refused(run, passed):
    found = json.loads((passed / "recalibrate.json").read_text())
    (passed / "recalibrate.json").write_text(json.dumps({**found, "teacher": "other"}))
    with pytest.raises(UserError, match="recalibrate.json: c was chosen for another teacher"):
        run(student)


def test_a_recalibration_that_is_none_is_refused(run, passed):
    (passed / "recalibrate.json").write_text("{}")
    with pytest.raises(UserError, match="recalibrate.json: not what recalibrate writes"):
        run(student)


def test_a_damaged_file_is_refused_before_anything_is_trained(run, passed):
    content = bytearray((passed / "topk/sft.topk").read_bytes())
    content[1500] ^= 4
    (passed / "topk/sft.topk").write_bytes(content)
    with pytest.raises(UserError, match="sft.topk: damaged"):
        run(student)


def test_the_whole_of_a_teacher_with_another_tokenizer_is_refused(run, passed):
    save(llama(1), passed / "other")
    word_tokenizer([*WORDS[1:], WORDS[0]]).save_pretrained(passed / "other")
    with pytest.raises(UserError, match="other: the teacher's tokenizer or vocabulary is not the student's"):
        run(student, {"teacher": "other"}, target="full")
