"""The base model of Lean: a plain Llama of the shape asked for, that learns proofs and no statement."""

import json
import math

import pytest

from tasks.runtime.models import load_causal, load_tokenizer
from tasks.runtime.packing import IGNORED
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tasks.runtime.theorem_prompt import Encoded, Layout, Renderer
from tasks.train import lean_base
from tests.train.stages import curve_of, published


def test_the_model_is_a_plain_folder_and_learned_something(run):
    done = run(lean_base)
    model, tokenizer = load_causal(done / "model")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (32, 2)
    assert model.config.tie_word_embeddings
    scores, rows = json.loads((done / "scores.json").read_text()), curve_of(done)
    assert scores["parameters"] == model.num_parameters()
    assert scores["tokens"] == rows[-1]["tokens"]
    assert rows[-1]["loss"] < rows[0]["loss"] < math.log(len(tokenizer)) + 0.5
    assert scores["heldout_loss"] < rows[0]["loss"]


def test_the_same_params_give_the_same_bytes_and_random_heads_others(run):
    done = published(run(lean_base))
    assert done == published(run(lean_base, "again"))
    assert done["model/model.safetensors"] != published(run(lean_base, "plain", copying=False))["model/model.safetensors"]


def test_only_proofs_are_learned_or_all_is_and_the_last_stands_in_the_frame_of_a_prompt(world):
    words = load_tokenizer(world / "tokenizer")
    frame = Renderer(words, Layout())
    theorems = [{"question": "w1 w2", "proof": "w3"}, {"question": "w4", "proof": "w5 w6"}]
    files = [lean_base.File.model_validate({"theorems": theorems})]
    w, end = [words.convert_tokens_to_ids(f"w{number}") for number in range(7)], words.eos_token_id
    shown = Encoded([w[1], w[2]], [w[3], end])
    given = [*frame.prompt([shown], [w[4]]), w[5], w[6], end]
    assert lean_base.encode(words, files, world, lean_base.Params(learned="all")) == [(given, given)]
    ((ids, labels),) = lean_base.encode(words, files, world, lean_base.Params())
    assert ids == given
    assert [label for label in labels if label != IGNORED] == [w[3], w[5], w[6], end]
    assert all(label in (IGNORED, token) for label, token in zip(labels, ids, strict=True))


def test_theorems_that_stand_alone_are_packed_apart_from_files_of_several(world):
    one, other = ({"question": f"w{number}", "proof": "w9"} for number in (1, 2))
    write_records(world / "files/mixed.jsonl", [{"theorems": [one, other]}, {"theorems": [other]}, {"theorems": [one]}])
    words = load_tokenizer(world / "tokenizer")
    rows = lean_base.packed(words, world / "files/mixed.jsonl", lean_base.Params())
    assert [[row["position_ids"].count(0) for row in kind] for kind in rows] == [[2], [1]]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hidden_size": 36, "heads": 4}, r"lean-base.hidden_size: 36 is not an even number for each of 4 heads; use a multiple"),
        ({"positions": 16}, r"lean-base.max_length: 48 is more than positions: 16; raise positions"),
        ({"max_length": 8}, r"pretrain.jsonl: record \d+ has \d+ tokens; set lean-base.max_length: \d+ or more, or lower"),
    ],
)
def test_what_cannot_be_is_refused(run, changed, said):
    with pytest.raises(UserError, match=said):
        run(lean_base, **changed)
