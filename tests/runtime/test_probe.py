"""The probe: greedy answers as the definition gives them, true log-probabilities, and nothing that hangs on batch or order."""

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.runtime import probe
from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.params import UserError
from tasks.runtime.probe import answers, in_portions, logprobs_of, samples
from tasks.runtime.progress import Progress
from tests.tiny import llama, word_tokenizer

PROMPTS = [[4 + (7 * n + k) % 40 for k in range(1 + n * 5 % 7)] for n in range(14)]
ids = st.lists(st.integers(4, 43), min_size=1, max_size=5)


def greedy(prompts=PROMPTS, batch_size=5, **more):
    return answers(llama(), word_tokenizer(), prompts, max_new_tokens=8, batch_size=batch_size, **more)


def alone(model, prefix, tail):
    """Log-probabilities by one pass over the whole text, nothing shared, padded or cached."""
    with torch.no_grad():
        logprobs = model(torch.tensor([[*prefix, *tail]])).logits[0].log_softmax(-1)
    return [float(logprobs[len(prefix) - 1 + n, token]) for n, token in enumerate(tail)]


def test_answers_are_those_of_model_generate_question_by_question():
    model = llama()
    for prompt, answer in zip(PROMPTS, greedy(), strict=True):
        whole = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=8, pad_token_id=0)[
            0, len(prompt) :
        ].tolist()
        assert answer.ids == [token for token in whole if token != 3]
        assert answer.logprobs == pytest.approx(alone(model, prompt, answer.ids), abs=1e-4)
        assert answer.logprob == pytest.approx(sum(answer.logprobs))


@settings(max_examples=15)
@given(st.lists(st.tuples(ids, st.lists(st.lists(st.integers(4, 43), max_size=4), max_size=4)), min_size=1, max_size=5))
def test_scores_are_those_of_each_text_alone(texts):
    """Prefixes of unequal length, none to four continuations each, some empty."""
    model = llama()
    found = logprobs_of(model, [prefix for prefix, _ in texts], [tails for _, tails in texts], batch_size=3)
    for (prefix, tails), scored in zip(texts, found, strict=True):
        assert len(scored) == len(tails)
        for tail, each in zip(tails, scored, strict=True):
            assert each == pytest.approx(alone(model, prefix, tail), abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 14])
def test_the_batch_size_changes_nothing_but_rounding(batch_size):
    for one, other in zip(greedy(), greedy(batch_size=batch_size), strict=True):
        assert one.ids == other.ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_forbidden_beginnings_are_avoided_and_the_rest_is_greedy_after_them():
    model, free = llama(), greedy()
    banned = frozenset(answer.ids[0] for answer in free[:6] if answer.ids)
    for prompt, before, after in zip(PROMPTS, free, greedy(forbidden=banned), strict=True):
        assert after.ids[0] not in banned
        assert len(after.ids) <= 8
        with torch.no_grad():
            logits = model(torch.tensor([prompt])).logits[0, -1]
        logits[[*banned, 3]] = -torch.inf
        assert after.ids[0] == int(logits.argmax())
        if before.ids and before.ids[0] not in banned:
            assert after.ids == before.ids


def draws(order, batch_size=4):
    given = {"count": 3, "temperature": 1.0, "max_new_tokens": 5, "seed": 1, "batch_size": batch_size}
    drawn = samples(llama(), word_tokenizer(), [PROMPTS[n] for n in order], [100 + n for n in order], **given)
    return dict(zip(order, drawn, strict=True))


def test_samples_are_a_questions_own_whatever_its_place_and_batch():
    order = list(range(14))
    random.Random(0).shuffle(order)
    assert draws(range(14)) == draws(order, batch_size=9) == draws(range(14), batch_size=1)
    assert draws([3, 5])[5] == draws(range(14))[5]


def test_sampling_at_temperature_zero_is_refused():
    with pytest.raises(UserError, match="sample above 0"):
        samples(llama(), word_tokenizer(), PROMPTS, range(14), count=2, temperature=0, max_new_tokens=2, seed=0, batch_size=4)


@pytest.mark.parametrize(("prefix", "tail", "said"), [([], [4], "has no token"), ([4] * 60, [4] * 5, "have 65 tokens")])
def test_what_cannot_be_scored_is_refused(prefix, tail, said):
    with pytest.raises(UserError, match=said):
        logprobs_of(llama(), [prefix], [[tail]], batch_size=1)


@pytest.fixture
def portions(tmp_path, monkeypatch):
    """Ask items in portions of 3; the returned list tells which were asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "PORTION", 3)
    asked: list[int] = []

    def start(items, fail_at=None):
        def ask(portion):
            if fail_at in portion:
                raise KeyboardInterrupt
            asked.extend(portion)
            return [{"double": 2 * item, "third": item / 3} for item in portion]

        place = Checkpoints(tmp_path / "checkpoints")
        return in_portions(items, lambda item: item, ask, place, Progress("test", len(items), "questions")), asked

    return start


def test_portions_come_back_in_the_items_order(portions):
    found, asked = portions([5, 1, 4, 2, 8, 7, 3])
    assert [one["double"] for one in found] == [10, 2, 8, 4, 16, 14, 6]
    assert asked == [1, 2, 3, 4, 5, 7, 8], "the portions are the same in whatever order the items come"


def test_a_killed_run_asks_only_what_is_missing(portions):
    items = list(range(8))
    with pytest.raises(KeyboardInterrupt):
        portions(items, fail_at=4)
    found, asked = portions(items)
    assert asked == items
    assert found == portions(items)[0] == [{"double": 2 * n, "third": n / 3} for n in items]


def test_a_damaged_portion_is_asked_again(portions, tmp_path):
    portions(list(range(6)))
    (tmp_path / "checkpoints/step-00000001/found.json").write_text(json.dumps([0, 0, 0]))
    found, asked = portions(list(range(6)))
    assert asked == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert found[4] == {"double": 8, "third": 4 / 3}
