"""Tiny models that tests make for themselves in milliseconds."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tasks.runtime.models import save_model

torch.set_num_threads(1)  # threads that wait for one another cost models of this size more than they bring

WORDS = [f"w{number}" for number in range(40)]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def word_tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    """One token a word; no chat template and no token added in front, so a text of n words has n tokens."""
    entries = ["<pad>", "<unk>", "<s>", "</s>", *words]
    inner = Tokenizer(models.WordLevel({entry: number for number, entry in enumerate(entries)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **marks, clean_up_tokenization_spaces=False)


def config(seed: int = 0, context: int = 64, words: list[str] = WORDS) -> LlamaConfig:
    """The shape of every tiny model, and its weights' seed set; the spread of the weights makes its choices decided."""
    torch.manual_seed(seed)
    marks = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    return LlamaConfig(vocab_size=len(words) + 4, **SHAPE, **marks, max_position_embeddings=context, initializer_range=0.3)


def llama(seed: int = 0, context: int = 64) -> LlamaForCausalLM:
    """A random Llama."""
    return LlamaForCausalLM(config(seed, context)).eval()


def judge(seed: int = 0, context: int = 64) -> LlamaForSequenceClassification:
    """A random reward model."""
    shape = config(seed, context)
    shape.num_labels = 1
    return LlamaForSequenceClassification(shape).eval()


def save(model: LlamaForCausalLM | LlamaForSequenceClassification, folder: Path) -> Path:
    """Write a model folder with the word tokenizer."""
    save_model(model, word_tokenizer(), folder, {"stage": "toy", "summary": "A tiny random Llama."})
    return folder
