"""Sampling: a completion depends on its model, prompt, seed and numbers alone, and follows the model's own distribution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import MistralConfig, MistralForCausalLM

from tasks.runtime.generate import Row, draw, generate, generate_ids, uniforms
from tasks.runtime.models import load_causal
from tasks.runtime.params import UserError
from tests.tiny import SHAPE, WORDS, llama, word_tokenizer

PROMPTS = [" ".join(WORDS[number : number + 1 + number * 7 % 5]) for number in range(12)]
OPENINGS = ["Once upon a time", "Lily and Tom", "The dog", "One day, a big red ball", "Mom said", "It was late and", "A bird"]


def greedy(model, tokenizer, prompts, batch_size=64, steps=10):
    return generate(model, tokenizer, prompts, max_new_tokens=steps, temperature=0, seed=0, batch_size=batch_size)


def sampled(prompts=PROMPTS, batch_size=64, samples=3, seed=7, steps=10, model=None):
    model = model or llama()
    settings = {"max_new_tokens": steps, "temperature": 1.0, "samples": samples, "seed": seed, "batch_size": batch_size}
    return generate(model, word_tokenizer(), prompts, **settings)


def without_cache(model, tokenizer, prompt, steps):
    """Greedy decoding as the definition says: the whole text through the model for every token."""
    ids = tokenizer(prompt)["input_ids"]
    new: list[int] = []
    for _ in range(steps):
        with torch.no_grad():
            token = int(model(torch.tensor([ids + new])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        new.append(token)
    return tokenizer.decode(new, skip_special_tokens=True)


def test_greedy_is_what_the_definition_gives():
    model, tokenizer = llama(), word_tokenizer()
    expected = [[without_cache(model, tokenizer, prompt, 10)] for prompt in PROMPTS]
    assert greedy(model, tokenizer, PROMPTS) == expected
    assert len({text for [text] in expected}) > 3, "the prompts must lead to different texts for this to mean anything"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_texts_do_not_depend_on_the_batch(batch_size):
    assert greedy(llama(), word_tokenizer(), PROMPTS, batch_size) == greedy(llama(), word_tokenizer(), PROMPTS)
    assert sampled(batch_size=batch_size) == sampled()


@pytest.mark.real
def test_real_texts_do_not_depend_on_the_batch(real_data):
    model, tokenizer = load_causal(real_data / "models/stories260k")
    one, three, many = (greedy(model, tokenizer, OPENINGS, size, steps=40) for size in (1, 3, 64))
    assert one == three == many
    assert "Lily" in one[0][0]


@pytest.mark.real
def test_real_greedy_texts_are_those_of_the_library(real_data):
    model, tokenizer = load_causal(real_data / "models/stories260k")
    for prompt, [text] in zip(OPENINGS, greedy(model, tokenizer, OPENINGS, steps=60), strict=True):
        ids = tokenizer(prompt, return_tensors="pt")
        whole = model.generate(**ids, max_new_tokens=60, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert text == tokenizer.decode(whole, skip_special_tokens=True)


def test_a_sample_does_not_change_with_how_many_are_drawn():
    assert [samples[:2] for samples in sampled(samples=5)] == sampled(samples=2)


def test_a_sample_does_not_change_with_the_prompts_that_follow():
    assert sampled(PROMPTS)[:4] == sampled(PROMPTS[:4])


def test_samples_seeds_and_equal_prompts_differ():
    texts = sampled([PROMPTS[0], PROMPTS[0]], samples=4)
    assert len({text for samples in texts for text in samples}) == 8
    assert sampled(seed=7) == sampled(seed=7) != sampled(seed=8)


def test_a_completion_ends_before_its_stop_token():
    model = llama()
    first = without_cache(model, word_tokenizer(), PROMPTS[0], 10).split()
    model.generation_config.eos_token_id = [3, word_tokenizer().convert_tokens_to_ids(first[4])]
    assert greedy(model, word_tokenizer(), PROMPTS[:1]) == [[" ".join(first[: first.index(first[4])])]]


def test_finished_rows_leave_and_the_others_stay_themselves():
    """With a stop token that most texts soon meet, rows are dropped again and again; each text is what it is when drawn alone."""
    model = llama()
    model.generation_config.eos_token_id = list(range(3, 14))
    together = sampled(model=model, samples=4, steps=30)
    alone = [sampled(PROMPTS[: index + 1], 1, 4, steps=30, model=model)[index] for index in range(len(PROMPTS))]
    assert together == alone
    lengths = {len(text.split()) for samples in together for text in samples}
    assert min(lengths) < 3
    assert max(lengths) > 8


def test_a_model_that_looks_back_over_a_window_only():
    """The cache keeps the last tokens only in such a layer; room ahead is for the layers that grow."""
    torch.manual_seed(0)
    shape = MistralConfig(vocab_size=44, **SHAPE, max_position_embeddings=64, sliding_window=4, initializer_range=0.3)
    model = MistralForCausalLM(shape).eval()
    model.generation_config.eos_token_id = None
    expected = [[without_cache(model, word_tokenizer(), prompt, 10)] for prompt in PROMPTS]
    assert greedy(model, word_tokenizer(), PROMPTS) == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=2, max_size=8), st.sampled_from([0.5, 1.0, 2.0]))
def test_draws_have_the_frequencies_of_the_softmax(logits, temperature):
    count = 4000
    noise = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens = draw(torch.tensor(logits).expand(count, -1), temperature, noise)
    share = torch.bincount(tokens, minlength=len(logits)) / count
    assert torch.allclose(share, torch.softmax(torch.tensor(logits) / temperature, -1).float(), atol=2 / count)


def test_the_first_tokens_of_many_samples_pass_a_chi_square_test():
    model, tokenizer = llama(), word_tokenizer()
    texts = sampled(PROMPTS[:1], 500, samples=2000, steps=1, model=model)[0]
    with torch.no_grad():
        chances = torch.softmax(model(torch.tensor([tokenizer(PROMPTS[0])["input_ids"]])).logits[0, -1].double(), -1)
    ids = [tokenizer.convert_tokens_to_ids(text) for text in texts if text]
    common = [token for token in range(4, 44) if chances[token] > 0.005]
    seen = [ids.count(token) for token in common]
    rest = float(1 - chances[common].sum())
    assert chisquare([*seen, 2000 - sum(seen)], [*(2000 * chances[common]).tolist(), 2000 * rest]).pvalue > 1e-4


def test_the_noise_of_a_row_is_its_own():
    rows = [Row(prompt, sample) for prompt in range(20) for sample in range(20)]
    noise = uniforms(3, rows, 50)
    assert torch.equal(noise[123], uniforms(3, [rows[123]], 50)[0])
    assert len(noise.unique()) == noise.numel()
    assert abs(noise.mean() - 0.5) < 0.01
    assert noise.corrcoef().fill_diagonal_(0).abs().max() < 0.75


def test_likeliest_of_equals_is_the_lowest_id():
    assert draw(torch.tensor([[0.0, 2.0, 2.0]]), 0, None).tolist() == [1]


def test_noise_next_to_one_still_draws_a_token():
    assert draw(torch.zeros(1, 7), 1.0, torch.tensor([1 - 2**-53], dtype=torch.float64)).tolist() == [6]


def test_a_prompt_too_long_for_the_context_is_refused_with_its_number():
    prompts = ["w1", " ".join(["w2"] * 60)]
    with pytest.raises(UserError, match="prompt 1 has 60 tokens, and 10 new ones exceed the model's context of 64"):
        sampled(prompts)


def test_ids_are_what_the_texts_were_decoded_from_and_end_with_the_stop_token_unless_cut():
    """Some completions meet one of two stop tokens, some are cut; a share of the prompts under its own numbers draws the same."""
    model, tokenizer = llama(), word_tokenizer()
    model.generation_config.eos_token_id = list(range(3, 14))
    asked = {"max_new_tokens": 6, "temperature": 1.0, "samples": 3, "seed": 7, "batch_size": 8}
    encoded = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    drawn = generate_ids(model, tokenizer, encoded, **asked)
    texts = generate(model, tokenizer, PROMPTS, **asked)
    assert [[tokenizer.decode(one.ids, skip_special_tokens=True) for one in of_prompt] for of_prompt in drawn] == texts
    flat = [one for of_prompt in drawn for one in of_prompt]
    assert {one.stop is None for one in flat} == {True, False}
    assert all(one.actions == one.ids and len(one.ids) == 6 for one in flat if one.stop is None)
    assert all(one.actions == [*one.ids, one.stop] and 3 <= one.stop < 14 for one in flat if one.stop is not None)
    numbers = range(1, len(PROMPTS), 2)
    assert generate_ids(model, tokenizer, [encoded[number] for number in numbers], numbers=numbers, **asked) == drawn[1::2]
