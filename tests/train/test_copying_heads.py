"""Heads that copy do so before any training; weights at random do not."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.train.copying_heads import THETA, plant

WORDS, LENGTH = 300, 60


def new_model(seed=0):
    torch.manual_seed(seed)
    shape = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    rotary = {"rope_type": "default", "rope_theta": THETA}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, tie_word_embeddings=True, rope_parameters=rotary, **shape)).eval()


def right(model, texts):
    """The share of the second halves of texts, their first three tokens left out, that are foretold."""
    with torch.no_grad():
        guesses = model(texts[:, :-1]).logits.argmax(-1)
    half = texts.shape[1] // 2 + 3
    return (guesses[:, half - 1 :] == texts[:, half:]).float().mean().item()


@pytest.fixture(scope="module")
def planted():
    model = new_model()
    plant(model, 0)
    return model


def test_what_came_before_comes_again(planted):
    """Random words, then the same words: nothing but copying foretells them."""
    words = torch.randint(WORDS, (8, LENGTH), generator=torch.Generator().manual_seed(1))
    texts = torch.cat([words, words], 1)
    assert right(new_model(), texts) < 0.05
    assert right(planted, texts) > 0.3


def test_more_than_the_last_word_counts(planted):
    """Every word comes four times, each time followed by another: the words before the last tell which it is."""
    draw = torch.Generator().manual_seed(2)
    words = torch.stack([torch.cat([torch.randperm(15, generator=draw) for _ in range(4)]) for _ in range(8)])
    assert right(planted, torch.cat([words, words], 1)) > 1 / 4, "what the last word alone could tell"


def test_the_same_seed_plants_the_same_heads(planted):
    again, other = new_model(), new_model()
    plant(again, 0)
    plant(other, 1)
    assert all(torch.equal(one, two) for one, two in zip(planted.parameters(), again.parameters(), strict=True))
    assert not torch.equal(planted.model.embed_tokens.weight, other.model.embed_tokens.weight)


def test_only_two_layers_and_the_embedding_are_changed(planted):
    before = dict(new_model().named_parameters())
    changed = {name for name, weights in planted.named_parameters() if not torch.equal(weights, before[name])}
    assert {name.removesuffix("_proj.weight") for name in changed - {"model.embed_tokens.weight"}} == {
        f"model.layers.{layer}.self_attn.{part}" for layer in (0, 1) for part in "qkvo"
    }
