"""The stage: several provers, one checker, every attempt kept with its verdict, mistakes told before anything is sampled."""

import json
from contextlib import contextmanager

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.prove import prove, writing
from tasks.prove.prove import Params
from tasks.runtime.lease import Lease
from tasks.runtime.models import save_model
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tasks.runtime.theorem_prompt import Layout, save_layout
from tests.prove.test_rounds import Judge
from tests.theorems import chain, sum_of, tokenizer, world
from tests.tiny import SHAPE

SMALL = {"threads": 1, "samples": 3, "batch": 2, "max_new_tokens": 8, "context": 300, "generate_batch": 6, "rounds": 2}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two random provers, records, and a checker that accepts nothing they can say."""
    monkeypatch.chdir(tmp_path)
    words = tokenizer()
    for seed in (0, 1):
        torch.manual_seed(seed)
        shape = LlamaConfig(vocab_size=len(words), **SHAPE, max_position_embeddings=512, pad_token_id=0, eos_token_id=2)
        save_model(LlamaForCausalLM(shape), words, tmp_path / f"provers/p{seed}", {"stage": "toy", "summary": "Random."})
        save_layout(Layout(), tmp_path / f"provers/p{seed}")
    tests = [chain(70, 2, "test"), sum_of(71, "test"), sum_of(72, "heldout")]
    write_records(tmp_path / "records.jsonl", [*world(12), *tests])

    @contextmanager
    def judge(settings):
        yield Judge()

    monkeypatch.setattr(writing, "open_checker", judge)
    return tmp_path


def run(place, out="out", **params):
    with Lease(place / "work", "test") as lease:
        prove.main(
            Params(**{**SMALL, **params}),
            Run("prove", out, lease),
            provers=place / "provers",
            examples=place / "records.jsonl",
            theorems=place / "records.jsonl",
            out=place / out,
            scores=place / f"{out}.json",
        )
    return json.loads((place / f"{out}.json").read_text())


def test_every_attempt_of_every_prover_is_kept_with_its_verdict(place):
    scores = run(place)
    assert scores["backend"] == "recorded 4 core"
    assert set(scores["provers"]) == {"p0", "p1"}
    for name in ("p0", "p1"):
        rows = [json.loads(line) for line in (place / f"out/{name}.jsonl").read_text().splitlines()]
        assert [row["theorem"] for row in rows] == [n for n in ("chain_70", "sum_71", "sum_72") for _ in range(3)]
        assert {row["split"] for row in rows} == {"test", "heldout"}
        assert {row["family"] for row in rows} == {"chain", "sum"}
        assert all(row["reason"] == "error" and not row["verified"] for row in rows)
        assert scores["provers"][name]["cumulative_percent"] == [0.0], "nothing was proved, so there is no second round"
    assert not list(place.glob(".temper/checkpoints/*/*"))


def test_same_params_same_bytes_whatever_is_sampled_at_once(place):
    run(place)
    run(place, "again", generate_batch=3)
    for name in ("p0", "p1"):
        assert (place / f"out/{name}.jsonl").read_bytes() == (place / f"again/{name}.jsonl").read_bytes()


def test_a_limit_takes_the_first_of_each_family(place):
    assert run(place, limit=1)["provers"]["p0"]["theorems"] == 2


def test_two_theorems_of_one_name_are_refused(place):
    write_records(place / "records.jsonl", [*world(6), chain(70, 1, "test"), chain(70, 2, "test")])
    with pytest.raises(UserError, match=r"records.jsonl: two theorems of the name chain_70; rename one"):
        run(place)


def test_nothing_to_prove_and_nothing_to_show_are_refused(place):
    with pytest.raises(UserError, match=r"no theorem of split real; set prove.splits"):
        run(place, splits=["real"])
    write_records(place / "records.jsonl", [chain(70, 1, "test")])
    with pytest.raises(UserError, match=r"no record of the training split to show as an example; set prove.pool to 0"):
        run(place)


def test_one_model_folder_is_a_prover_too(place):
    assert writing.prover_folders(place / "provers/p0") == {"prover": place / "provers/p0"}
    (place / "nothing").mkdir()
    with pytest.raises(UserError, match="neither a model folder nor a folder of model folders"):
        writing.prover_folders(place / "nothing")
