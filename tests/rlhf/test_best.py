"""RAFT's choice: the best of a prompt's own samples, blanks left out, ties drawn."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rlhf.best import Kept, best_of, keep, measure

SAMPLES = st.lists(st.tuples(st.sampled_from(["", "  ", "a", "b c"]), st.integers(-3, 3)), min_size=1, max_size=8)


@given(SAMPLES, st.integers(0, 99))
def test_the_best_is_told_and_no_told_one_is_better(pairs, seed):
    texts, rewards = [text for text, _ in pairs], [float(reward) for _, reward in pairs]
    index = best_of(texts, rewards, random.Random(seed))
    if index is None:
        assert not any(text.strip() for text in texts)
    else:
        assert texts[index].strip()
        assert all(reward <= rewards[index] for text, reward in zip(texts, rewards, strict=True) if text.strip())


def test_a_blank_is_never_kept_however_high_its_reward():
    assert best_of(["", "told"], [9.0, 1.0], random.Random(0)) == 1


def test_equal_rewards_are_drawn_evenly_and_the_same_way_for_the_same_seed():
    drawn = Counter(best_of(["a", "b", "c"], [1.0, 2.0, 2.0], random.Random(seed)) for seed in range(1000))
    assert set(drawn) == {1, 2}
    assert 400 < drawn[1] < 600
    assert best_of(["a", "b"], [1.0, 1.0], random.Random(5)) == best_of(["a", "b"], [1.0, 1.0], random.Random(5))


def test_samples_compete_within_their_prompt():
    """A hard prompt keeps its best answer, though an easy one's worst is better."""
    kept = keep(
        ["hard", "easy", "mute"], [["a", "b"], ["c", "d"], ["", " "]], [[0.1, 0.2], [0.9, 0.8], [1.0, 1.0]], random.Random(0)
    )
    assert kept == [Kept("hard", "b", 0.2), Kept("easy", "c", 0.9)]
    assert measure([[0.1, 0.2], [0.9, 0.8], [1.0, 1.0]], kept) == {
        "reward": pytest.approx(4 / 6),
        "kept_reward": pytest.approx(0.55),
        "distinct": 0.0,
        "kept": 2,
    }
