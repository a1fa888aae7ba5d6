"""Two random models of three layers, and answers sampled from a merge of them whose ratios are therefore the right ones."""

import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from tasks.average.likelihood import encode
from tasks.average.merged import Merged
from tasks.average.recipe import Recipe, partwise
from tasks.runtime.generate import generate
from tasks.runtime.packing import Example
from tests.tiny import WORDS, config, word_tokenizer

BOUNDS = [0, 1, 2, 3]
RIGHT = [0.3, 0.4, 0.8]
"""Ratios of the model that the answers are sampled from; their mean is 0.5."""


def deep(seed: int, tied: bool = False, layers: int = 3) -> LlamaForCausalLM:
    """A random Llama of three layers."""
    shape = config(seed)
    shape.num_hidden_layers, shape.tie_word_embeddings, shape.initializer_range = layers, tied, 0.2
    return LlamaForCausalLM(shape).eval()


def pair(tied: bool = False) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """The model before RLHF, and the one after it: the same with every weight moved."""
    pre, post = deep(0, tied), deep(0, tied)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in post.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return pre, post


def average(pre: PreTrainedModel, post: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    """The average by a second way: a new model whose state is the weighted sum, in float64."""
    state, other = pre.state_dict(), post.state_dict()
    model = deep(9, pre.config.tie_word_embeddings)
    model.load_state_dict({k: recipe.of(k) * v.double() + (1 - recipe.of(k)) * other[k].double() for k, v in state.items()})
    return model


def right_answers(pre: PreTrainedModel, post: PreTrainedModel, each: int = 6) -> list[tuple[str, str]]:
    """(prompt, answer) pairs sampled from the merge with the ratios RIGHT."""
    merged = Merged(pre, post, BOUNDS)
    merged.set(partwise(RIGHT, BOUNDS))
    prompts = [f"{one} {other}" for one, other in zip(WORDS[:16], WORDS[16:32], strict=True)]
    drawn = generate(
        merged.model, word_tokenizer(), prompts, max_new_tokens=10, temperature=1.0, samples=each, seed=0, batch_size=256
    )
    return [(prompt, text) for prompt, texts in zip(prompts, drawn, strict=True) for text in texts if text.strip()]


def examples(pre: PreTrainedModel, post: PreTrainedModel) -> list[Example]:
    """The right answers as token ids and labels."""
    return encode(word_tokenizer(), right_answers(pre, post), 64)
