"""The nucleus and the repetition penalty are those of the papers and of transformers, and reach a draw as they should."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor, TopPLogitsWarper

from tasks.runtime.generate import Shaping, generate_ids, nucleus, penalised, seen_in
from tests.tiny import llama, word_tokenizer

LOGITS = st.lists(st.floats(-5, 5).filter(lambda x: x == 0 or abs(x) > 1e-3), min_size=3, max_size=12, unique=True)


@given(LOGITS, st.floats(0.05, 0.999))
def test_the_nucleus_is_that_of_transformers(logits, top_p):
    given_BV = torch.tensor([logits], dtype=torch.float64)
    kept = nucleus(given_BV.softmax(-1), top_p)
    library = TopPLogitsWarper(top_p)(None, given_BV).softmax(-1)
    torch.testing.assert_close(kept / kept.sum(), library, atol=1e-9, rtol=0)


def test_the_nucleus_by_hand():
    kept = nucleus(torch.tensor([[0.1, 0.5, 0.1, 0.3]], dtype=torch.float64), 0.85)
    assert kept.tolist() == [[0.1, 0.5, 0.0, 0.3]], "of two equally likely ones the first"


@given(LOGITS, st.floats(1.0, 2.0), st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_the_penalty_is_that_of_transformers(logits, penalty, said):
    given_BV = torch.tensor([logits], dtype=torch.float64)
    ours = penalised(given_BV, seen_in([said], len(logits), given_BV.device), penalty)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([said]), given_BV.clone())
    torch.testing.assert_close(ours, theirs)


def drawn(prompts, *, numbers=None, batch_size=8, shaping=Shaping(0.7, 1.3), temperature=(0.5, 1.5, 0.9), samples=3):  # noqa: B008
    options = {"max_new_tokens": 12, "samples": samples, "seed": 3, "batch_size": batch_size, "shaping": shaping}
    heat = list(temperature)[: len(prompts)]
    found = generate_ids(llama(), word_tokenizer(), prompts, temperature=heat, numbers=numbers, **options)
    return [[one.ids for one in of] for of in found]


PROMPTS = [[4, 5, 6], [7, 8], [9, 10, 11, 12]]


def test_shaped_samples_do_not_depend_on_the_batch():
    assert drawn(PROMPTS) == drawn(PROMPTS, batch_size=1)
    assert drawn(PROMPTS)[1:2] == drawn(PROMPTS[1:2], numbers=[1], temperature=(1.5,))


def test_each_prompt_has_its_own_temperature():
    cold, hot = drawn([PROMPTS[0]] * 2, temperature=(1e-4, 5.0), shaping=Shaping(), samples=6)
    assert len({tuple(ids) for ids in cold}) == 1
    assert len({tuple(ids) for ids in hot}) == 6


def test_a_nucleus_of_nothing_is_the_likeliest_token():
    greedy = generate_ids(llama(), word_tokenizer(), PROMPTS, max_new_tokens=12, temperature=0, seed=0, batch_size=8)
    assert drawn(PROMPTS, shaping=Shaping(top_p=1e-9), samples=1) == [[one.ids for one in of] for of in greedy]


def test_a_penalty_makes_a_text_repeat_itself_less():
    def repeats(penalty):
        found = drawn(PROMPTS, shaping=Shaping(repetition_penalty=penalty), temperature=(0.3,) * 3, samples=8)
        return sum(len(ids) - len(set(ids) - set(prompt)) for prompt, of in zip(PROMPTS, found, strict=True) for ids in of)

    assert repeats(1e6) < repeats(1.0) / 3


@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_finished_rows_leave_with_what_was_said_in_them(penalty):
    model = llama()
    model.generation_config.eos_token_id = list(range(3, 14))
    options = {"max_new_tokens": 25, "temperature": 1.0, "seed": 1, "shaping": Shaping(0.95, penalty)}
    many = generate_ids(model, word_tokenizer(), PROMPTS, samples=4, batch_size=12, **options)
    one = generate_ids(model, word_tokenizer(), PROMPTS, samples=4, batch_size=1, **options)
    assert many == one
