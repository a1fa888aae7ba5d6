"""The base model's texts hold no theorem that is measured, and the tokenizer brings any text back."""

import json

import pytest

from tasks.data import lean_words
from tasks.data.lean_words import Params, byte_pairs
from tasks.data.regions.theorems.source import load_theorems
from tasks.data.theorem_drafts import Params as Drafts
from tasks.data.theorem_drafts import drafts
from tasks.data.theorem_library import library, read
from tasks.runtime.imports import ROOT
from tasks.runtime.models import load_tokenizer
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tasks.runtime.theorem_prompt import Posed
from tests.theorems import chain, world

SOURCE = load_theorems(ROOT / "data/atlas")


@pytest.fixture(scope="module")
def given():
    told = drafts(SOURCE, Drafts(train=4, valid=1, test=4, heldout=3))
    return [Posed.model_validate(one.model_dump()) for one in told]


@pytest.fixture(scope="module")
def new(given):
    return library(SOURCE, given, 12, seed=0)


def test_the_library_states_nothing_that_is_given(given, new):
    forms = [read(one.Statement).form() for one in new]
    assert len(set(forms)) == len(forms)
    assert not set(forms) & {read(one.Statement).form() for one in given}


def test_only_families_that_are_learned_from_are_in_it(given, new):
    assert {one.family for one in new} == {one.family for one in given if one.split == "train"}
    assert not {one.family for one in given if one.split == "heldout"} & {one.family for one in new}
    assert new == library(SOURCE, given, 12, seed=0) != library(SOURCE, given, 12, seed=1)


def test_a_family_that_has_no_more_gives_what_it_has(given):
    few = [one for one in given if one.family == "transported" or one.family == "sum_order"]
    assert 0 < len(library(SOURCE, few, 300, seed=0)) < 300


def test_a_statement_is_read_back_into_its_parts(given):
    for one in given:
        assert read(one.Statement).statement(one.Name) == one.Statement


@pytest.fixture
def made(tmp_path):
    def run(records, way="inline", **params):
        write_records(tmp_path / "records.jsonl", records)
        places = dict.fromkeys(("drafts", "records"), tmp_path / "records.jsonl")
        outs = {name: tmp_path / name for name in ("corpus", "tokenizer")}
        lean_words.main(Params(**{"library": 0, "file": 500, "heldout": 2, **params}), None, atlas=tmp_path, **places, **outs)
        return [
            "".join(piece for theorem in json.loads(line)["theorems"] for piece in theorem.values())
            for name in ("pretrain", "perplexity")
            for line in (tmp_path / f"corpus/{way}/{name}.jsonl").read_text().splitlines()
        ]

    return run


def test_texts_tell_every_training_theorem_once_and_no_other(made):
    texts = made([*world(12), chain(88, split="test"), chain(99, split="heldout")], shown=0.5)
    told = "\n".join(texts)
    counts = sorted(text.count("### Proof") for text in texts)
    assert counts[:6] == [1] * 6, "half of them stand alone"
    assert counts[-1] > 1
    assert all(len(text) <= 500 or text.count("### Proof") == 1 for text in texts)
    assert all(told.count(f"theorem {one.Name} ") == 1 for one in world(12))
    assert "chain_88" not in told
    assert "chain_99" not in told
    assert "-- step" in told


def test_every_way_of_writing_has_texts_of_its_own(made):
    inline, head, none = (made(world(12), way) for way in ("inline", "head", "none"))
    assert all("\n  -- " in text for text in inline)
    assert all(" /- " in text and "\n  -- " not in text for text in head)
    assert all(text.startswith("theorem ") and " /- " not in text and "\n  -- " not in text for text in none)


def test_the_tokenizer_brings_every_text_back(made, tmp_path):
    texts = made(world(12))
    words = load_tokenizer(tmp_path / "tokenizer")
    for text in (*texts, "∀ n, n ∣ 0 ∧ ⟨h1, h2⟩ 𝔸 naïve\n\t  (x)"):
        assert words.decode(words(text)["input_ids"]) == text


def test_a_name_is_one_token_wherever_it_stands():
    words = byte_pairs(["have h12 := h3 h4\n(h3 : a) h12 h12 h3"] * 50, 400, 64)
    pieces = [words.decode([token]) for token in words("from h12, h3 (h3 : a)")["input_ids"]]
    assert [piece.strip() for piece in pieces if "h" in piece] == ["h12", "h3", "h3"]


def test_digits_are_single_tokens():
    words = byte_pairs(["h12 = 12345"] * 50, 400, 64)
    assert [words.decode([token]) for token in words("12345")["input_ids"]] == list("12345")


def test_too_few_texts_are_refused(made):
    with pytest.raises(UserError, match=r"records.jsonl: \d texts, of which lean-words.heldout: 4 are held out; lower it"):
        made(world(4), heldout=4)


def test_a_proof_of_another_statement_is_refused(made):
    with pytest.raises(UserError, match="record chain_1: its proof does not begin with its statement; mend"):
        made([*world(12), chain(1).model_copy(update={"Commented_proof": "theorem x : 1 = 1 := rfl"})])
