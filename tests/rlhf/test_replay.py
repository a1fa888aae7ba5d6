"""Replay gives exactly its share of tokens, drawn uniformly from the texts, and every token of them is learned."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rlhf.replay import Replay, read_texts
from tasks.runtime.params import UserError
from tasks.runtime.records import write_records
from tests.tiny import word_tokenizer

TEXTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 4.0]), st.integers(0, 3))
def test_after_every_batch_the_share_is_exact(lengths, share, seed):
    replay = Replay(TEXTS, share, seed)
    shown = given = 0
    for length in lengths:
        example = ([20] * length, [20] * length)
        first, *texts = replay([example])
        shown, given = shown + length, given + sum(len(ids) for ids, _ in texts)
        assert first == example
        assert given == replay.given == int(share * shown)
        assert all(ids == labels and ids in [text[: len(ids)] for text in TEXTS] for ids, labels in texts)


def test_texts_are_drawn_uniformly_and_by_the_seed():
    draws = [Replay([[1], [2]], 1.0, seed)([([0] * 2000, [0] * 2000)])[1:] for seed in (0, 0, 1)]
    ones = sum(ids == [1] for ids, _ in draws[0])
    assert 900 < ones < 1100
    assert draws[0] == draws[1] != draws[2]


def test_texts_end_once_and_fit_the_context(tmp_path):
    write_records(tmp_path / "texts.jsonl", [{"text": "w0 w1"}, {"text": "w0 </s>"}, {"text": "w0 w1 w2 w3 w4"}])
    assert read_texts(tmp_path / "texts.jsonl", word_tokenizer(), context=4) == [[4, 5, 3], [4, 3], [4, 5, 6, 7]]


def test_no_text_to_replay_is_told(tmp_path):
    with pytest.raises(UserError, match="pretrain.jsonl: no such file; replay needs text like that of pre-training"):
        read_texts(tmp_path / "pretrain.jsonl", word_tokenizer(), context=8)
