"""The teacher's pass: what stands in its files is what each record by itself would give, and a stopped pass goes on."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.distill import teacher_topk
from tasks.distill.rows import Rows, read_rows, tokenizer_digest
from tasks.distill.teacher_topk import likeliest, top_k
from tasks.distill.topk_file import TopK
from tasks.runtime.models import load_causal, load_tokenizer
from tasks.runtime.packing import IGNORED, collate, pack
from tasks.runtime.params import UserError
from tasks.runtime.records import Completion, read_records, write_records
from tests.tiny import WORDS, llama, save, word_tokenizer


def by_itself(world, name: str, k: int):
    """The top k of every learned position of every record alone, unpacked and unpadded, by prompt and answer."""
    model, tokenizer = load_causal(world / "teacher")
    found = {}
    for record in read_records(world / f"sets/{name}.jsonl", Completion):
        prompt = tokenizer(record.prompt)["input_ids"]
        ids = [*prompt, *tokenizer(record.completion)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            probs = model(torch.tensor([ids])).logits[0].softmax(-1)
        found[tuple(ids)] = probs[len(prompt) - 1 : -1].topk(k)
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_files_hold_what_each_record_by_itself_gives(run, world, batch_size):
    run(teacher_topk, k=4, batch_size=batch_size)
    alone = by_itself(world, "sft", 4)
    rows = read_rows(load_tokenizer(world / "base"), world / "sets/sft.jsonl", 24)
    file, place = TopK(world / "topk/sft.topk"), 0
    for row in rows.rows:
        starts = [n for n, position in enumerate(row["position_ids"]) if position == 0] + [len(row["input_ids"])]
        for start, stop in itertools.pairwise(starts):
            expected = alone[tuple(row["input_ids"][start:stop])]
            ids, probs = file.read(place, place + len(expected.indices))
            assert ids.tolist() == expected.indices.tolist()
            assert probs == pytest.approx(expected.values.numpy(), abs=2e-5)
            place += len(ids)
    assert place == len(file) == rows.offsets[-1]


def test_a_two_token_answer_has_exactly_two_positions_and_the_prompts_last_token_is_the_first():
    """Three tokens of prompt: positions 2 and 3 predict the answer's tokens, and position 4, its last, predicts nothing."""
    rows = Rows(pack([([4, 5, 6, 7, 8], [IGNORED] * 3 + [7, 8])], 8))
    model = llama()
    ids, probs = top_k(model, collate(rows.rows, 0), 3)
    with torch.no_grad():
        expected = model(torch.tensor([[4, 5, 6, 7, 8]])).logits[0, 2:4].softmax(-1).topk(3)
    assert ids.tolist() == expected.indices.tolist()
    assert torch.allclose(probs, expected.values, atol=1e-6)
    assert rows.targets.tolist() == [7, 8]
    assert rows.offsets == [0, 2]


@settings(max_examples=40)
@given(n=st.integers(1, 9), vocabulary=st.integers(1, 400) | st.integers(4090, 4200), seed=st.integers(0, 99), data=st.data())
def test_the_likeliest_are_those_of_a_full_sort(n, vocabulary, seed, data):
    """Ties are common here: numbers are rounded, so the ids must stand for the right probabilities and be distinct."""
    k = data.draw(st.integers(1, min(vocabulary, 12)))
    logits = (torch.randn(n, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3).round(decimals=1)
    every = logits.softmax(-1)
    ids, probs = likeliest(logits, k)
    assert torch.allclose(probs, every.sort(descending=True).values[:, :k], atol=1e-6)
    assert torch.allclose(probs, every.gather(1, ids), atol=1e-6)
    assert all(len(set(row)) == k for row in ids.tolist())


@pytest.mark.parametrize("portion", [1, 100, 10_000])
def test_portions_change_nothing(monkeypatch, portion):
    logits = torch.randn(30, 50)
    whole = likeliest(logits, 5)
    monkeypatch.setattr(teacher_topk, "PORTION", portion)
    assert all(torch.equal(a, b) for a, b in zip(whole, likeliest(logits, 5), strict=True))


def test_padding_changes_nothing():
    long, short = ([4, 5, 6, 7, 8, 9, 10], [IGNORED] * 3 + [7, 8, 9, 10]), ([11, 12, 13], [IGNORED, 12, 13])
    model = llama()
    padded = top_k(model, collate(pack([long, short], 8), 0), 5)[1]
    alone = torch.cat([top_k(model, collate(pack([example], 8), 0), 5)[1] for example in (long, short)])
    assert torch.allclose(padded, alone, atol=1e-6)


def test_what_the_scores_say(run, world):
    run(teacher_topk)
    scores = json.loads((world / "teacher-topk.json").read_text())
    ids, probs = TopK(world / "topk/valid.topk").read(0, scores["valid_positions"])
    rows = read_rows(load_tokenizer(world / "base"), world / "sets/valid.jsonl", 24)
    assert scores["valid_accuracy"] == np.mean(ids[:, 0] == rows.targets)
    assert scores["valid_mass"] == pytest.approx(probs.sum(1).mean())
    assert scores["valid_mass_p5"] <= scores["valid_mass"] <= 1
    assert not list(world.glob(".temper/checkpoints/*/*"))


@pytest.mark.parametrize("after", [2, 5, 9])
def test_stopped_and_run_again_gives_the_same_bytes(run, world, monkeypatch, after):
    """The pass is stopped after some rows; blocks of 7 positions end within rows."""
    small = teacher_topk.Header
    monkeypatch.setattr(teacher_topk, "Header", lambda **fields: small(block=7, **fields))
    run(teacher_topk, batch_size=1)
    whole = {path.name: path.read_bytes() for path in (world / "topk").iterdir()}
    calls = []

    def stopping(*args):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(args)
        return top_k(*args)

    monkeypatch.setattr(teacher_topk, "top_k", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(teacher_topk, {"out": "again"}, batch_size=1)
    assert not (world / "again").exists()
    counted = []
    monkeypatch.setattr(teacher_topk, "top_k", lambda *args: counted.append(args) or top_k(*args))
    run(teacher_topk, {"out": "again"}, batch_size=1)
    assert {path.name: path.read_bytes() for path in (world / "again").iterdir()} == whole
    rows = [read_rows(word_tokenizer(), world / f"sets/{name}.jsonl", 24).rows for name in ("sft", "valid")]
    assert len(counted) < sum(map(len, rows)), "it went on and did not start anew"


def test_a_teacher_with_another_tokenizer_is_refused(run, world):
    word_tokenizer([*WORDS[1:], WORDS[0]]).save_pretrained(world / "teacher")
    with pytest.raises(UserError, match=r"teacher: the teacher's tokenizer is not that of the student in .*base"):
        run(teacher_topk)


def test_the_same_tokenizer_in_another_folder_is_the_same(world):
    assert tokenizer_digest(load_tokenizer(world / "teacher")) == tokenizer_digest(word_tokenizer())


def test_more_than_the_vocabulary_is_refused(run):
    with pytest.raises(UserError, match="teacher-topk.k: 45, but the teacher's vocabulary has 44 tokens; lower it"):
        run(teacher_topk, k=45)


def test_a_teacher_that_diverged_is_refused(run, world):
    model = llama()
    model.lm_head.weight.data[3] = float("nan")
    save(model, world / "teacher")
    with pytest.raises(UserError, match="the teacher's logits are not finite"):
        run(teacher_topk)


def test_prompts_that_fill_a_row_are_refused(run, world):
    write_records(world / "sets/sft.jsonl", [{"prompt": " ".join(["w1"] * 9), "completion": "w2"}])
    with pytest.raises(UserError, match=r"sft.jsonl: every prompt fills a row of max_length: 8; raise it"):
        run(teacher_topk, max_length=8)


def test_rows_longer_than_the_teacher_takes_are_refused(run):
    with pytest.raises(UserError, match="teacher-topk.max_length: 65 tokens, but the model in .*teacher takes 64; lower it"):
        run(teacher_topk, max_length=65)
