"""The base model: its shape is the params', its data is all of the text, and its numbers are the same again."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tasks.runtime.models import load_causal, load_tokenizer
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tasks.train import pretrain
from tests.tiny import WORDS
from tests.train.stages import curve_of, published


@pytest.fixture
def done(run):
    return run(pretrain)


def test_the_model_is_a_plain_folder_of_the_shape_asked_for(done):
    model, tokenizer = load_causal(done / "model")
    assert type(model).__name__ == "LlamaForCausalLM"
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (32, 2, 64)
    assert config.vocab_size == len(tokenizer) == len(WORDS) + 4
    assert config.tie_word_embeddings
    assert config.use_cache
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert model.dtype == torch.float32
    assert not list((done / "model").glob("*.bin")), "no pickles, no training_args.bin"


def test_its_scores_are_those_of_the_published_weights(done, world):
    """Held-out loss by the textbook: each text alone, full logits, ended by one end-of-sequence token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(done / "model"), load_tokenizer(world / "tokenizer")
    losses = []
    for line in (world / "sets/perplexity.jsonl").read_text().splitlines():
        ids = torch.tensor([[*tokenizer(json.loads(line)["text"])["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        losses += (-logprobs.gather(1, ids[0, 1:, None])[:, 0]).tolist()
    scores = json.loads((done / "scores.json").read_text())
    assert scores["heldout_loss"] == pytest.approx(math.fsum(losses) / len(losses), abs=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(scores["heldout_loss"]))
    assert scores["parameters"] == sum(weights.numel() for weights in load_file(done / "model/model.safetensors").values())


def test_the_curve_counts_every_token_that_is_not_padding(done, world):
    texts = [json.loads(line)["text"] for line in (world / "sets/pretrain.jsonl").read_text().splitlines()]
    rows = curve_of(done)
    assert list(rows[0]) == ["step", "loss", "learning_rate", "tokens"]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    whole = 2 * sum(len(text.split()) + 1 for text in texts)
    assert rows[-1]["tokens"] == pytest.approx(whole, rel=0.05), "two epochs, cut to whole batches"


def test_it_starts_from_knowing_nothing_and_learns(done):
    rows = curve_of(done)
    assert rows[0]["loss"] == pytest.approx(math.log(44), abs=0.1), "small random weights: every word is as likely"
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_the_same_params_give_the_same_bytes(done, run):
    assert published(done) == published(run(pretrain, "again"))


def test_another_seed_gives_another_model(done, run):
    assert published(done)["model/model.safetensors"] != published(run(pretrain, "again", seed=1))["model/model.safetensors"]


def test_a_text_longer_than_a_row_is_cut_into_pieces_and_none_is_lost(world):
    tokenizer = load_tokenizer(world / "tokenizer")
    write_records(world / "long.jsonl", [{"text": " ".join(WORDS[:20])}, {"text": "w1"}])
    pieces = pretrain.encode(tokenizer, world / "long.jsonl", 8)
    assert [len(ids) for ids, _ in pieces] == [8, 8, 5, 2]
    assert [token for ids, _ in pieces for token in ids] == [*range(4, 24), 3, 5, 3]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"heads": 3}, "pretrain.hidden_size: 32 is not an even number for each of 3 heads; use a multiple of 6"),
        ({"max_length": 128}, "pretrain.max_length: 128 is more than positions: 64; raise positions"),
        ({"max_length": 4}, r"pretrain.max_length: Input should be greater than or equal to 8"),
        ({"layer": 2}, "pretrain.layer: unknown key; known are seed,"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(run, changed, says):
    with pytest.raises(UserError, match=says):
        run(pretrain, **changed)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "w1"}\n{"text": 7}\n', r"pretrain.jsonl:2: not a Text record: text: Input should be a valid string"),
        ('{"text": "w1"}\n\n{"text"\n', r"pretrain.jsonl:3: not a Text record: not JSON"),
        ("", r"pretrain.jsonl: holds no Text record"),
    ],
)
def test_a_bad_text_is_named_with_file_and_line(run, world, content, says):
    (world / "sets/pretrain.jsonl").write_text(content)
    with pytest.raises(UserError, match=says):
        run(pretrain)
