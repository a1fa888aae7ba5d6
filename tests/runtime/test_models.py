"""Model folders: what cannot be used is refused with its reason before any training; prompts are encoded in one way."""

import json
import shutil

import pytest
from huggingface_hub import constants
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.runtime.models import check_folder, derive, encode_completion, encode_prompt, load_causal, load_tokenizer, save_model
from tasks.runtime.params import UserError

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "where", "is", "tarn", "?", "north"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole tiny Llama folder."""
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **marks)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), **shape))
    place = tmp_path_factory.mktemp("model") / "llama"
    save_model(model, tokenizer, place, {"stage": "toy", "summary": "A tiny Llama.", "parameters": model.num_parameters()})
    return place


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "llama")


def test_what_is_saved_is_loaded_and_carries_a_card(folder):
    model, tokenizer = load_causal(folder)
    assert tokenizer.decode(encode_prompt(tokenizer, "where is tarn ?")) == "where is tarn ?"
    assert f"| parameters | {model.num_parameters()} |" in (folder / "README.md").read_text()


def test_saving_twice_gives_the_same_bytes(folder, tmp_path):
    model, tokenizer = load_causal(folder)
    save_model(model, tokenizer, tmp_path / "a", {"stage": "toy", "summary": "x"})
    save_model(model, tokenizer, tmp_path / "b", {"stage": "toy", "summary": "x"})
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="no such model folder"):
        check_folder(tmp_path / "none")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_incomplete_folder_says_which_file_is_missing(copy, name):
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"incomplete model folder: {name} is missing"):
        check_folder(copy)


def test_a_missing_shard_is_named(copy):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors named in .* but missing"):
        check_folder(copy)


def test_a_pickle_is_refused_before_it_is_opened(copy):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/opened'\ntR.")
    with pytest.raises(UserError, match="pickled weights .pytorch_model.bin., which can run code"):
        load_causal(copy)


def test_what_is_saved_does_not_tell_whether_the_process_may_ask_the_hub(copy, tmp_path, monkeypatch):
    written = []
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        load_tokenizer(copy).save_pretrained(tmp_path / str(offline))
        written.append((tmp_path / str(offline) / "tokenizer_config.json").read_bytes())
    assert written[0] == written[1]


def test_a_tokenizer_with_more_words_than_the_model_is_refused(copy):
    tokenizer = load_tokenizer(copy)
    tokenizer.add_tokens(["south"])
    tokenizer.save_pretrained(copy)
    with pytest.raises(UserError, match="10 tokens but 9 embedding rows"):
        load_causal(copy)


def test_a_folder_without_tokenizer_is_refused(copy):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match="no tokenizer can be loaded"):
        load_tokenizer(copy)


def test_a_completion_ends_with_exactly_one_end_token(folder):
    tokenizer = load_tokenizer(folder)
    ids = encode_completion(tokenizer, "north")
    assert ids == [WORDS.index("north"), tokenizer.eos_token_id]


@pytest.mark.real
def test_prompt_and_completion_join_as_the_whole_text_would(real_data):
    tokenizer = load_tokenizer(real_data / "models/stories260k")
    joined = encode_prompt(tokenizer, "Once upon a time") + encode_completion(tokenizer, "there was a cat")
    assert joined[:-1] == tokenizer("Once upon a time there was a cat")["input_ids"]


def test_seeds_of_different_places_differ():
    seeds = {derive(seed, iteration, epoch) for seed in range(20) for iteration in range(20) for epoch in range(20)}
    assert len(seeds) > 7990, "32-bit seeds of 8000 places may meet by chance, but hardly"
    assert derive(4, 2) == derive(4, 2)
