"""Instruction tuning learns answers and where they end, and nothing of the prompts; any whole model folder will do."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.runtime.models import load_causal
from tasks.runtime.packing import IGNORED
from tasks.runtime.params import UserError
from tasks.runtime.records import Completion, write_records
from tasks.train import sft
from tasks.train.sft import Params, encode
from tests.tiny import llama, save, word_tokenizer
from tests.train.stages import curve_of, published


def records(*pairs: tuple[str, str]) -> list[Completion]:
    return [Completion(prompt=prompt, completion=completion) for prompt, completion in pairs]


def test_only_the_answer_is_learned_and_it_ends_once():
    tokenizer = word_tokenizer()
    ((ids, labels),) = encode(tokenizer, records(("w0 w1", "w2 w3")), Params(max_length=8), "x").examples
    assert list(ids) == [4, 5, 6, 7, tokenizer.eos_token_id]
    assert list(labels) == [IGNORED, IGNORED, 6, 7, tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("too_long", "lengths", "cut", "skipped"), [("cut", [8, 8, 3], 1, 1), ("skip", [8, 3], 0, 2)], ids=["cut", "skip"]
)
def test_a_record_longer_than_a_row_is_cut_or_left_out_and_counted(too_long, lengths, cut, skipped):
    """Seven words and the end fill a row of eight; one word more is too long; a prompt of eight leaves nothing to learn."""
    long = " ".join(f"w{n}" for n in range(8))
    given = records(("w0", long[: 6 * 3 - 1]), ("w0 w1", long), (long, "w1"), ("w1", "w2"))
    found = encode(word_tokenizer(), given, Params(max_length=8, too_long=too_long), "x")
    assert [len(ids) for ids, _ in found.examples] == lengths
    assert (found.cut, found.skipped) == (cut, skipped)


def test_a_cut_answer_is_not_taught_to_end_there():
    tokenizer = word_tokenizer()
    found = encode(tokenizer, records(("w0", " ".join(["w1"] * 9))), Params(max_length=8), "x")
    assert tokenizer.eos_token_id not in found.examples[0][0]


def test_it_learns_to_give_the_answer_and_stop(run, world):
    write_records(
        world / "sets/sft.jsonl", [{"prompt": f"w{n} w{n + 1}", "completion": f"w{n + 20} w{n + 21}"} for n in range(12)]
    )
    out = run(sft, heldout=1, epochs=120, batch_size=2, max_length=32)
    model, tokenizer = load_causal(out / "model")
    learned = 0
    for n in range(12):
        given = torch.tensor([[n + 4, n + 5]])
        answer = model.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=8)[0, 2:].tolist()
        learned += answer == [n + 24, n + 25, tokenizer.eos_token_id]
    assert learned >= 11, "all that it was trained on"


def test_the_published_folder_and_scores(run, world):
    out = run(sft)
    model, _ = load_causal(out / "model")
    assert model.config.use_cache
    assert {path.name for path in (out / "model").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    }
    assert not list((out / "model").glob("*.bin"))
    scores = json.loads((out / "scores.json").read_text())
    assert scores["records"] == 56
    assert 0.5 < scores["filled"] <= 1
    rows = curve_of(out)
    assert list(rows[0]) == ["step", "loss", "learning_rate", "tokens"]
    assert rows[-1]["tokens"] == scores["tokens"]
    assert not list(world.glob(".temper/checkpoints/*/*")), "checkpoints go when the out is there"


def test_the_same_params_give_the_same_bytes(run):
    assert published(run(sft)) == published(run(sft, "again"))


def test_weights_of_half_precision_are_trained_in_full(run, world):
    save(llama().bfloat16(), world / "base")
    model, _ = load_causal(run(sft) / "model")
    assert model.dtype == torch.float32


@pytest.mark.real
def test_a_real_model_learns_real_stories(run, world, real_data):
    shutil.copytree(real_data / "models/stories260k", world / "base", dirs_exist_ok=True)
    stories = [
        json.loads(line)["text"] for line in (real_data / "data/text/tinystories_1000.jsonl").read_text().splitlines()[:24]
    ]
    pairs = [(" ".join(story.split()[:12]), " ".join(story.split()[12:40])) for story in stories]
    write_records(world / "sets/sft.jsonl", [{"prompt": prompt, "completion": completion} for prompt, completion in pairs])
    out = run(sft, max_length=256, learning_rate=1e-3)
    rows = curve_of(out)
    assert rows[-1]["loss"] < rows[0]["loss"]
    load_causal(out / "model")


def test_a_row_longer_than_the_model_takes_is_refused(run):
    with pytest.raises(
        UserError, match=r"sft.max_length: 128 tokens, but the model in .*base takes at most 64; set sft.max_length"
    ):
        run(sft, max_length=128)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            '{"prompt": "w1", "completion": "w2"}\n{"prompt": "w1"}\n',
            r"sft.jsonl:2: not a Completion record: completion: Field req",
        ),
        (
            '{"prompt": "w1", "completion": ""}\n',
            r"sft.jsonl:1: not a Completion record: completion: String should have at least",
        ),
        ('{"prompt": "w1", "completion": 3}\n', r"sft.jsonl:1: .*completion: Input should be a valid string"),
        ("[1, 2]\n", r"sft.jsonl:1: not a Completion record"),
        ("", r"sft.jsonl: holds no Completion record"),
        ('{"prompt": "w1", "completion": "w2"}\n' * 4, r"sft.jsonl: 4 records, of which sft.heldout: 4 are held out; lower it"),
    ],
)
def test_a_bad_record_is_named_with_file_and_line(run, world, content, says):
    (world / "sets/sft.jsonl").write_text(content)
    with pytest.raises(UserError, match=says):
        run(sft)


def test_records_of_which_none_fits_are_refused(run, world):
    long = " ".join(["w1"] * 40)
    write_records(world / "sets/sft.jsonl", [{"prompt": long, "completion": "w2"}] * 8)
    with pytest.raises(UserError, match="every record is longer than sft.max_length: 32; raise it"):
        run(sft)


def without(name: str):
    return lambda base: (base / name).unlink()


def with_pickled_weights(base):
    (base / "model.safetensors").unlink()
    torch.save({}, base / "pytorch_model.bin")


def with_a_smaller_vocabulary(base):
    shape = LlamaConfig.from_pretrained(base)
    shape.vocab_size = 20
    LlamaForCausalLM(shape).save_pretrained(base)


def with_a_tensor_missing(base):
    state = {name: weights.clone() for name, weights in llama().state_dict().items() if "lm_head" not in name}
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})


def with_another_shape(base):
    shape = LlamaConfig.from_pretrained(base)
    shape.intermediate_size = 48
    shape.save_pretrained(base)


def cut_short(base):
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (shutil.rmtree, "base: no such model folder"),
        (without("config.json"), "base: incomplete model folder: config.json is missing"),
        (without("model.safetensors"), "base: incomplete model folder: model.safetensors is missing"),
        (without("tokenizer.json"), "base: no tokenizer can be loaded"),
        (with_pickled_weights, r"base: holds pickled weights \(pytorch_model.bin\)"),
        (with_a_smaller_vocabulary, "base: tokenizer and model disagree: 44 tokens but 20 embedding rows"),
        (with_a_tensor_missing, "base: incomplete model folder: .*model.layers.1.mlp.up_proj.weight"),
        (with_another_shape, "base: weights and config.json disagree about the shape of .*mlp"),
        (cut_short, "base: damaged model.safetensors: .*; copy or make the folder again"),
    ],
    ids=["missing", "no config", "no weights", "no tokenizer", "pickle", "vocabulary", "tensor missing", "shape", "cut short"],
)
def test_an_unusable_base_is_refused(run, world, harm, says):
    save(llama(), world / "base")
    harm(world / "base")
    with pytest.raises(UserError, match=says):
        run(sft)
