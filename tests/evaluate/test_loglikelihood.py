"""Log-likelihoods: equal to lm-eval's and to the definition, whatever is batched, shared or cut."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tasks.evaluate.loglikelihood import _batches, _likeliest, _rows, encode_pairs, loglikelihoods, score_tokens
from tasks.runtime.models import load_causal
from tasks.runtime.params import UserError
from tests.tiny import SHAPE, WORDS, llama, word_tokenizer

CONTEXT = 64


def theirs(model, tokenizer, requests):
    """What lm-eval's own model class makes of the requests."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance

    own = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
    asked = [Instance("loglikelihood", {}, request, number) for number, request in enumerate(requests)]
    return own.loglikelihood(asked, disable_tqdm=True)


def defined(model, pairs):
    """The definition, request by request, in float64 after the model."""
    scored = []
    for context, continuation in pairs:
        ids = (context + continuation)[-(CONTEXT + 1) :]
        with torch.no_grad():
            logs_TV = torch.log_softmax(model(torch.tensor([ids[:-1]])).logits[0].double(), -1)[-len(continuation) :]
        target_T = torch.tensor(continuation)
        scored.append((float(logs_TV.gather(1, target_T[:, None]).sum()), bool((logs_TV.argmax(-1) == target_T).all())))
    return scored


def same(found, expected):
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def text(first, count):
    return " ".join(WORDS[(first + 7 * number) % len(WORDS)] for number in range(count))


def likeliest(model, tokenizer, context):
    with torch.no_grad():
        return tokenizer.decode(model(torch.tensor([tokenizer(context)["input_ids"]])).logits[0, -1].argmax())


def some_requests():
    """Four choices to a question, of one token and of more, and every boundary rule."""
    greedy = text(1, 9)
    requests = [(text(start, 5 + start), " " + text(choice, 1 + choice % 3)) for start in range(8) for choice in range(4)]
    requests += [(text(3, 6) + "  ", text(4, 2)), ("", text(5, 4)), ("", text(5, 1)), ("", "<s> " + text(2, 3))]
    requests += [("<s> " + text(2, 3), " " + text(9, 2)), (text(0, 100), " " + text(1, 3)), (text(0, 62), " " + text(1, 3))]
    requests += [(text(2, 70), " " + text(1, CONTEXT)), (greedy, " " + likeliest(llama(), word_tokenizer(), greedy))]
    return requests


@pytest.mark.parametrize("batch_size", [1, 3, 16, 1000])
def test_lm_eval_finds_the_same(batch_size):
    requests = some_requests()
    expected = theirs(llama(), word_tokenizer(), requests)
    assert [greedy for _, greedy in expected].count(True) > 0
    same(loglikelihoods(llama(), word_tokenizer(), requests, batch_size=batch_size), expected)
    order = random.Random(batch_size).sample(range(len(requests)), len(requests))
    shuffled = loglikelihoods(llama(), word_tokenizer(), [requests[place] for place in order], batch_size=batch_size)
    same(shuffled, [expected[place] for place in order])


TOKENS = st.integers(4, len(WORDS) + 3)


@settings(max_examples=40)
@given(
    contexts=st.lists(st.lists(TOKENS, min_size=1, max_size=80), min_size=1, max_size=3),
    asked=st.lists(st.tuples(st.integers(0, 2), st.lists(TOKENS, min_size=1, max_size=12)), min_size=1, max_size=10),
    batch_size=st.integers(1, 12),
)
def test_any_requests_are_scored_as_defined(contexts, asked, batch_size):
    pairs = [(contexts[place % len(contexts)], continuation) for place, continuation in asked]
    same(score_tokens(llama(), pairs, batch_size=batch_size), defined(llama(), pairs))


def test_choices_share_their_context():
    """Every token of a row is computed once, and no request is lost: 10 of context, and behind it 0 + 1 + 2 tokens."""
    pairs = [(list(range(4, 14)), [5] * length) for length in (3, 1, 2)]
    [row] = _rows(pairs, CONTEXT, share=True)
    assert (row.length, sorted(row.numbers), row.forked) == (13, [0, 1, 2], True)
    assert sorted(row.length for row in _rows(pairs, CONTEXT, share=False)) == [10, 11, 12]


def test_of_equally_likely_tokens_the_first_is_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [2.0, 1.0, 0.0, 2.0]])
    sources, targets = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 2, 3, 0, 3])
    assert _likeliest(logits, sources, targets).tolist() == [True, False, False, True, False]


def test_a_batch_holds_as_many_tokens_as_its_requests_would_alone():
    """Sixteen questions of four one-token choices are sixteen rows; choices of many tokens take the room they need."""
    letters = [([4 + question, 5, 6, 7], [choice]) for question in range(32) for choice in range(8, 12)]
    assert [len(batch) for batch in _batches(_rows(letters, CONTEXT, share=True), 16)] == [16, 16]
    texts = [([4 + question, 5, 6, 7], [choice] * 5) for question in range(8) for choice in range(8, 12)]
    [row, *_] = _rows(texts, CONTEXT, share=True)
    assert (row.length, row.longest) == (20, 8)
    assert [len(batch) for batch in _batches(_rows(texts, CONTEXT, share=True), 16)] == [6, 2]
    assert all(len(batch) == 1 for batch in _batches(_rows(texts, CONTEXT, share=True), 1)), "a row stays whole"


def test_only_what_predicts_a_continuation_meets_the_output_layer():
    """One row of logits for the four one-token choices of each question, and one more for each token after the first."""
    seen, model = [], llama()
    model.get_output_embeddings().register_forward_hook(lambda *call: seen.append(call[2].shape[0]))
    pairs = [([4, 5, 6], [choice]) for choice in range(7, 11)] + [([4, 5, 6, 7], [8, 9]), ([4, 5, 6, 7], [9, 8, 7])]
    score_tokens(model, pairs, batch_size=16)
    assert sum(seen) == 1 + (1 + 1 + 2)


def test_a_model_that_attends_to_a_window_is_scored_without_sharing():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    model = MistralForCausalLM(
        MistralConfig(vocab_size=44, **SHAPE, max_position_embeddings=CONTEXT, sliding_window=4, initializer_range=0.3)
    ).eval()
    pairs = [(list(range(4, 20)), [choice] * 3) for choice in range(5, 9)]
    same(score_tokens(model, pairs, batch_size=8), defined(model, pairs))


def test_half_precision_weights_are_scored_in_their_own_type():
    model = llama().bfloat16()
    pairs = [([4, 5, 6], [choice, 9]) for choice in range(7, 11)]
    found = score_tokens(model, pairs, batch_size=8)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in defined(model, pairs)], rel=0.1)


def test_no_request_is_no_work():
    assert loglikelihoods(llama(), word_tokenizer(), [], batch_size=4) == []


def test_white_space_belongs_to_the_continuation():
    assert encode_pairs(word_tokenizer(), [("w1 w2  ", "w3")]) == encode_pairs(word_tokenizer(), [("w1 w2", "  w3")])


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (("w1", ""), "request 1: its continuation has no token"),
        (("", "<s>"), "request 1: its continuation has no token"),
        (("w1", " " + text(0, CONTEXT + 1)), "request 1: its continuation has 65 tokens and the model's context is 64"),
    ],
)
def test_what_cannot_be_scored_is_named(request_, said):
    with pytest.raises(UserError, match=said):
        loglikelihoods(llama(), word_tokenizer(), [("w1", " w2"), request_], batch_size=4)


@pytest.mark.real
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_lm_eval_finds_the_same_with_a_real_model(real_data, batch_size):
    folder = real_data / "models/stories260k"
    model, tokenizer = load_causal(folder)
    begun = ["Once upon a time, there was a little", "Lily went to the park with her mom. ", "The dog was", ""]
    ends = [" girl named Lily.", " boy who loved to play with his red ball", " cat", "x\n\nThe"]
    requests = [(context, end) for context in begun for end in ends] + [("The sun was hot. " * 80, " Tom was sad.")]
    random.Random(batch_size).shuffle(requests)
    expected = theirs(model, AutoTokenizer.from_pretrained(folder), requests)
    same(loglikelihoods(model, tokenizer, requests, batch_size=batch_size), expected)
