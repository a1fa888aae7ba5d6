"""DPO's loss is that of its paper, with log-probabilities of each answer alone."""

import math

import pytest
import torch

from tasks.rlhf.answers import encode
from tasks.rlhf.pairs import answer_logprobs, dpo_loss, learn_pairs
from tests.tiny import llama, word_tokenizer

PAIRS = [("w1 w2", "w3 w4", "w5"), ("w6", "w7", "w8 w9 w10")]


def pairs():
    words = word_tokenizer()
    return [tuple(encode(words, [(prompt, text) for text in texts], 64)) for prompt, *texts in PAIRS]


def alone(model, example):
    """Log-probability of the learned tokens, step by step without padding."""
    ids, labels = example
    with torch.no_grad():
        logprobs = model(torch.tensor([list(ids)])).logits[0].log_softmax(-1)
    return sum(logprobs[place - 1, label].item() for place, label in enumerate(labels) if label != -100)


def test_logprobs_are_those_of_each_answer_alone():
    model, examples = llama(), [example for pair in pairs() for example in pair]
    expected = [alone(model, example) for example in examples]
    assert answer_logprobs(model, examples).tolist() == pytest.approx(expected, abs=1e-4)


def test_the_loss_is_that_of_the_paper():
    model, reference = llama(0), llama(1)
    margins = [
        0.5 * (alone(model, good) - alone(reference, good) - alone(model, bad) + alone(reference, bad)) for good, bad in pairs()
    ]
    expected = sum(math.log1p(math.exp(-margin)) for margin in margins) / 2
    assert dpo_loss(model, reference, pairs(), 0.5).item() == pytest.approx(expected, abs=1e-4)


def test_it_starts_at_log_2_and_learns_the_chosen():
    model, reference = llama(), llama()
    assert dpo_loss(model, reference, pairs(), 0.1).item() == pytest.approx(math.log(2), abs=1e-6)
    loss = learn_pairs(model, reference, pairs(), learning_rate=1e-3, epochs=10, batch_size=2, beta=0.5, seed=0)
    assert loss < 0.5
