"""A prover is trained in the order of its blocks and on their targets alone; stopped anywhere it goes on to the same bits."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.data import block as data
from tasks.runtime.blocks import Blocks
from tasks.runtime.fit.attendant import Attendant
from tasks.runtime.launch import Place
from tasks.runtime.lease import Lease
from tasks.runtime.models import load_causal, save_model
from tasks.runtime.packing import IGNORED
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tasks.runtime.theorem_prompt import load_layout
from tasks.train import block
from tasks.train.block import Params, Rows, SortedPlan, block_trainer, end_to_end, rows_a_pass
from tests import theorems
from tests.theorems import world as records
from tests.tiny import SHAPE
from tests.train.stages import curve_of, published

LENGTH = 260


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A base that knows the tokenizer, and block data."""
    place, words = tmp_path_factory.mktemp("prover"), theorems.tokenizer()
    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=len(words), **SHAPE, max_position_embeddings=512, pad_token_id=0, eos_token_id=2)
    save_model(LlamaForCausalLM(shape), words, place / "prover-base", {"stage": "toy", "summary": "A tiny random Llama."})
    write_records(place / "records.jsonl", records(18))
    params = data.Params(max_length=LENGTH)
    places = {"records": place / "records.jsonl", "tokenizer": place / "prover-base"}
    data.main(params, None, **places, out=place / "blocks", scores=place / "scores.json")
    return place


@pytest.fixture
def world(made, tmp_path, monkeypatch):
    """Where the stage runs; its inputs are shared."""
    for name in ("prover-base", "blocks"):
        (tmp_path / name).symlink_to(made / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(lengths, **params) -> SortedPlan:
    return SortedPlan(Run("prover", "x", Lease(Path("none"), "toy")), Params(**params), Place(), lengths)


def test_of_several_bases_the_one_that_has_read_this_way_of_writing_is_taken(world, run):
    alone = published(run(block))["model/model.safetensors"]
    base = (world / "prover-base").resolve()
    (world / "prover-base").unlink()
    (world / "prover-base").mkdir()
    (world / "prover-base/inline").symlink_to(base)
    assert published(run(block, "among"))["model/model.safetensors"] == alone


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 3))
def test_every_pass_goes_from_easy_to_hard_in_whole_batches(count, batch, passes):
    order = plan([5] * count, batch_size=batch, epochs=float(passes)).order
    assert len(order) % (batch * passes) == 0
    one = order[: len(order) // passes]
    assert order == one * passes
    assert one == sorted(one)
    assert set(one) == set(range(count))
    assert len(one) - count < batch


def test_the_data_loader_yields_the_blocks_as_they_are_sorted(world):
    """In the order of the data set and whole: what reaches the model, end to end, is the blocks one after the other."""
    blocks = Blocks.load(world / "blocks")
    run = plan(blocks.lengths.tolist(), batch_size=4, max_length=2 * LENGTH)
    trainer = block_trainer(lambda: load_causal(world / "prover-base")[0], Rows(blocks, run.order, "target"), run)
    assert trainer.args.per_device_train_batch_size == 2
    seen = [token for batch in trainer.get_train_dataloader() for token in batch["input_ids"].flatten().tolist()]
    assert seen == [token for row in run.order for token in blocks.row(row)[0]]


def test_not_a_token_computed_is_padding(world):
    blocks = Blocks.load(world / "blocks")
    assert len(set(blocks.lengths.tolist())) > 1, "unequal blocks, or this would mean nothing"
    batch = end_to_end([blocks.row(n) for n in range(3)])
    assert batch["input_ids"].shape == (1, int(blocks.lengths[:3].sum()))
    assert (batch["position_ids"][0] == 0).sum() == 3, "each block begins anew"


def test_blocks_that_share_a_pass_do_not_see_each_other(world):
    blocks, (model, _) = Blocks.load(world / "blocks"), load_causal(world / "prover-base")
    rows = [blocks.row(n) for n in (2, 5)]
    with torch.no_grad():
        batch = end_to_end(rows)
        both = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[0]
        alone = torch.cat([model(torch.tensor([ids])).logits[0] for ids, _ in rows])
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=0)


def test_a_row_on_a_cpu_is_no_longer_than_one_context():
    assert rows_a_pass(plan([60, 70], max_length=260)) == 3
    assert rows_a_pass(plan([260], max_length=260)) == 1


def test_the_prover_keeps_its_layout_and_is_a_plain_folder(run, world):
    out = run(block)
    load_causal(out / "model")
    assert load_layout(out / "model") == load_layout(world / "blocks")
    scores = json.loads((out / "scores.json").read_text())
    targets = sum(label != IGNORED for n in range(18) for label in Blocks.load(world / "blocks").row(n)[1])
    assert (scores["blocks"], scores["learned_tokens"]) == (18, targets)
    rows = curve_of(out)
    assert len(rows) == 2 * 5, "18 blocks in batches of 4, twice"
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_the_other_reading_of_the_loss_counts_the_instruction_too(run):
    few, all_ = (json.loads((run(block, name, learned=name) / "scores.json").read_text()) for name in ("target", "all"))
    assert all_["learned_tokens"] > 3 * few["learned_tokens"]
    assert all_["tokens"] == few["tokens"]


@pytest.mark.parametrize("at", [1, 7])
def test_stopped_in_the_middle_it_goes_on_to_the_same_bits(run, world, monkeypatch, at):
    whole = published(run(block))
    monkeypatch.setenv("TEMPER_CHECKPOINT_SECONDS", "0")
    save = Attendant.on_save

    def fails(self, args, state, control, **more):
        save(self, args, state, control, **more)
        if state.global_step == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Attendant, "on_save", fails)
    with pytest.raises(KeyboardInterrupt):
        run(block, "again")
    assert not (world / "again/model").exists()
    monkeypatch.setattr(Attendant, "on_save", save)
    assert published(run(block, "again")) == whole


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"epochs": 1.5}, r"prover.epochs: 1.5 is not a whole number of passes"),
        ({"max_length": 64}, r"blocks: a block has 2\d\d tokens; set prover.max_length: 2\d\d or more"),
        ({"max_length": 1024}, r"takes at most 512; set prover.max_length to 512 or less"),
    ],
)
def test_params_that_do_not_go_with_the_data_are_refused(run, changed, says):
    with pytest.raises(UserError, match=says):
        run(block, **changed)


def test_blocks_of_another_tokenizer_are_refused(run, world):
    other = theorems.byte_pairs(["nothing of Lean"], 300, 512)
    model, _ = load_causal(world / "prover-base")
    (world / "prover-base").unlink()
    save_model(model, other, world / "prover-base", {"stage": "toy", "summary": "The same with other words."})
    with pytest.raises(UserError, match="made with another tokenizer than that of .*prover-base; run prover-data"):
        run(block)
