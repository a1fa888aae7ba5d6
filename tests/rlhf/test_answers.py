"""Learning answers: the loss sees the answer alone, packing changes nothing, and the same seed gives the same bits."""

import copy

import pytest
import torch

from tasks.rlhf.answers import encode, learn, logprob
from tasks.runtime.packing import IGNORED
from tasks.runtime.params import UserError
from tests.tiny import WORDS, llama, word_tokenizer

ANSWERS = [
    (" ".join(WORDS[start : start + 2 + start % 3]), " ".join(WORDS[start + 5 : start + 6 + start % 4])) for start in range(10)
]
SETTINGS = {"learning_rate": 1e-2, "epochs": 3, "batch_size": 4, "seed": 0}


def examples():
    return encode(word_tokenizer(), ANSWERS, context=64)


def log_probability(model, prompt, answer):
    """By the definition: one text, one pass, the log-softmax of each answer token and the end."""
    tokenizer = word_tokenizer()
    head, tail = tokenizer(prompt)["input_ids"], [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logs = torch.log_softmax(model(torch.tensor([head + tail])).logits[0], -1)
    return sum(float(logs[len(head) + n - 1, token]) for n, token in enumerate(tail)), len(tail)


def test_a_prompt_is_never_learned():
    for ids, labels in examples():
        answer = [label for label in labels if label != IGNORED]
        assert labels == [IGNORED] * (len(ids) - len(answer)) + answer
        assert ids[-len(answer) :] == answer
        assert answer[-1] == word_tokenizer().eos_token_id


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_log_probability_is_that_of_the_answers_one_by_one(batch_size):
    model = llama()
    sums = [log_probability(model, *answer) for answer in ANSWERS]
    expected = sum(total for total, _ in sums) / sum(count for _, count in sums)
    assert logprob(model, examples(), batch_size) == pytest.approx(expected, abs=1e-5)


def test_one_step_is_that_of_the_unpacked_batch():
    """The same step by hand: every answer in a pass of its own, the gradient of the mean over all answer tokens."""
    packed, plain = llama(), llama()
    learn(packed, examples(), learning_rate=1e-2, epochs=1, batch_size=10, seed=0)
    plain.train()
    count = 0
    for ids, labels in examples():
        logits = plain(torch.tensor([ids])).logits[0, :-1]
        torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=IGNORED, reduction="sum").backward()
        count += sum(label != IGNORED for label in labels)
    for weight in plain.parameters():
        weight.grad /= count
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0).step()
    start = dict(llama().named_parameters())
    for (name, one), other in zip(packed.named_parameters(), plain.parameters(), strict=True):
        moved, expected = one - start[name], other - start[name]
        assert (moved - expected).abs().mean() < 1e-3 * expected.abs().mean(), name


def test_what_is_learned_becomes_likely():
    model = llama()
    before = logprob(model, examples(), 10)
    learn(model, examples(), learning_rate=1e-2, epochs=20, batch_size=5, seed=0)
    assert logprob(model, examples(), 10) > before / 4


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    models = [llama() for _ in range(3)]
    losses = [learn(model, examples(), **SETTINGS | {"seed": seed}) for model, seed in zip(models, (0, 0, 1), strict=True)]
    assert losses[0] == losses[1] != losses[2]
    states = [copy.deepcopy(model.state_dict()) for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_an_answer_that_exceeds_the_context_is_refused():
    with pytest.raises(UserError, match="have 13 tokens, the model's context is 12"):
        encode(word_tokenizer(), [("w1", " ".join(WORDS[:11]))], context=12)
