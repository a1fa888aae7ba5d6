"""Reward scores: each that of its answer alone, and never one that is not a number."""

import pytest
import torch

from tasks.runtime.models import encode_completion, encode_prompt, load_reward
from tasks.runtime.params import UserError
from tasks.runtime.score import score
from tests.tiny import WORDS, judge, llama, save, word_tokenizer

ANSWERS = [(f"w{number} w3", " ".join(WORDS[: number % 5])) for number in range(13)]


def test_a_score_is_that_of_the_answer_alone():
    model, tokenizer = judge(), word_tokenizer()
    rewards = score(model, tokenizer, ANSWERS, batch_size=4)
    for reward, (prompt, completion) in zip(rewards, ANSWERS, strict=True):
        ids = encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, completion)
        with torch.no_grad():
            assert reward == pytest.approx(float(model(torch.tensor([ids])).logits), abs=1e-5)


def test_scores_do_not_depend_on_batch_or_order():
    model, tokenizer = judge(), word_tokenizer()
    one, many = score(model, tokenizer, ANSWERS, batch_size=1), score(model, tokenizer, ANSWERS, batch_size=64)
    back = score(model, tokenizer, ANSWERS[::-1], batch_size=3)[::-1]
    assert one == pytest.approx(many, abs=1e-5)
    assert one == pytest.approx(back, abs=1e-5)


def test_no_answers_have_no_scores():
    assert score(judge(), word_tokenizer(), [], batch_size=4) == []


def test_a_reward_that_is_not_a_number_is_refused_with_its_answer():
    model = judge()
    with torch.no_grad():
        model.model.embed_tokens.weight[word_tokenizer().convert_tokens_to_ids("w7")] = float("nan")
    with pytest.raises(UserError, match="gives nan to 'w1' as the answer to 'w7 w3'"):
        score(model, word_tokenizer(), [("w2 w3", "w1"), ("w7 w3", "w1")], batch_size=4)


def test_an_answer_too_long_for_the_model_is_refused():
    with pytest.raises(UserError, match="answer 1 and its prompt have 72 tokens; the reward model takes 64"):
        score(judge(), word_tokenizer(), [("w1", "w2"), ("w1", " ".join(["w2"] * 70))], batch_size=4)


def test_a_saved_reward_model_scores_as_before(tmp_path):
    model = judge()
    loaded, tokenizer = load_reward(save(model, tmp_path / "reward"))
    assert score(loaded, tokenizer, ANSWERS, batch_size=4) == score(model, word_tokenizer(), ANSWERS, batch_size=4)


def test_a_language_model_is_no_reward_model(tmp_path):
    """The library would give it a random output, and the ranking with it."""
    with pytest.raises(UserError, match=r"not a reward model: it has no weights for score\.weight"):
        load_reward(save(llama(), tmp_path / "policy"))
