"""Perplexity: equal to the definition, independent of batching, and the published figures of a real model."""

import json
import math

import pytest
import torch

from tasks.evaluate.perplexity import likelihood
from tasks.runtime.models import load_causal
from tests.tiny import WORDS, llama, word_tokenizer

TEXTS = [" ".join(WORDS[start : start + 2 + start * 3 % 11]) for start in range(15)]


def test_it_is_what_the_definition_gives():
    model, tokenizer = llama(), word_tokenizer()
    nats, right, tokens = 0.0, 0, 0
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        for place in range(1, len(ids)):
            nats -= float(logs[place - 1, ids[place]])
            right += int(logs[place - 1].argmax()) == ids[place]
            tokens += 1
    found = likelihood(model, tokenizer, TEXTS, max_tokens=100, batch_size=4)
    assert (found.tokens, found.right) == (tokens, right)
    assert found.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-6)
    assert found.accuracy == right / tokens
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / sum(len(" ".join(t.split()[1:])) for t in TEXTS))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_batching_does_not_change_it(batch_size):
    model, tokenizer = llama(), word_tokenizer()
    alone = likelihood(model, tokenizer, TEXTS, max_tokens=100, batch_size=1)
    assert likelihood(model, tokenizer, TEXTS[::-1], max_tokens=100, batch_size=batch_size).nll == pytest.approx(
        alone.nll, abs=1e-5
    )


def test_equally_long_texts_give_the_exponential_of_their_mean_loss():
    texts = [" ".join(WORDS[start : start + 6]) for start in range(9)]
    each = [likelihood(llama(), word_tokenizer(), [text], max_tokens=100, batch_size=1).nll for text in texts]
    together = likelihood(llama(), word_tokenizer(), texts, max_tokens=100, batch_size=64)
    assert together.perplexity == pytest.approx(math.exp(sum(each) / len(each)), rel=1e-6)


def test_only_the_first_tokens_of_a_long_text_count():
    found = likelihood(llama(), word_tokenizer(), [" ".join(WORDS[:20])], max_tokens=5, batch_size=4)
    assert found.tokens == 5
    assert found == likelihood(llama(), word_tokenizer(), [" ".join(WORDS[:6])], max_tokens=100, batch_size=4)


def test_texts_without_a_token_to_predict_are_told():
    with pytest.raises(ValueError, match="no text has a token to predict"):
        likelihood(llama(), word_tokenizer(), ["w1"], max_tokens=5, batch_size=4)


def texts_of(path, first, last):
    return [json.loads(line)["text"] for line in path.open(encoding="utf-8")][first:last]


@pytest.mark.real
def test_a_real_model_measures_what_its_card_states(real_data):
    model, tokenizer = load_causal(real_data / "models/stories260k")
    stories = texts_of(real_data / "data/text/tinystories_1000.jsonl", 100, 112)
    found = likelihood(model, tokenizer, stories, max_tokens=200, batch_size=5)
    assert found.tokens == 2400
    assert found.nll == pytest.approx(1.5631, abs=1e-4)
    assert [found.perplexity, found.bits_per_byte] == pytest.approx([4.774, 1.121], abs=2e-3)
    foreign = [text.replace("\n", " ") for text in texts_of(real_data / "data/text/wikitext_1000.jsonl", 20, 26)]
    found = likelihood(model, tokenizer, foreign, max_tokens=200, batch_size=64)
    assert found.nll == pytest.approx(4.8858, abs=1e-4)
    assert [found.perplexity, found.bits_per_byte] == pytest.approx([132.401, 4.333], abs=2e-3)


@pytest.mark.real
@pytest.mark.slow
def test_a_real_model_measures_what_its_card_states_on_all_stories(real_data):
    model, tokenizer = load_causal(real_data / "models/stories260k")
    stories = texts_of(real_data / "data/text/tinystories_1000.jsonl", 0, 1000)
    found = likelihood(model, tokenizer, stories, max_tokens=511, batch_size=16)
    assert found.tokens == 412_717
    assert found.nll == pytest.approx(1.6241, abs=1e-4)
    assert [found.perplexity, found.bits_per_byte] == pytest.approx([5.074, 1.175], abs=2e-3)
