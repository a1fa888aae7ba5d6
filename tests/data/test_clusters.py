"""Answers that say the same are one cluster, however they are compared; sizes sum to the samples, and 80 of 100 is an 8."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from tasks.data.clusters import by_match, by_similarity, choose, load_embedder
from tasks.runtime.confidence import agreement
from tasks.runtime.params import UserError

ANSWERS = ["red", "Blue", "red.", "blue", "RED", "green"]


def told(clusters):
    return [(cluster.members, cluster.answer) for cluster in clusters]


def test_equal_after_normalising():
    assert told(by_match(ANSWERS)) == [([0, 2, 4], "red"), ([1, 3], "Blue"), ([5], "green")]


@settings(max_examples=50)
@given(st.lists(st.sampled_from([*ANSWERS, ""]), min_size=1))
def test_every_sample_is_in_one_cluster(answers):
    clusters = by_match(answers)
    assert sorted(n for cluster in clusters for n in cluster.members) == list(range(len(answers)))
    assert [cluster.size for cluster in clusters] == sorted((cluster.size for cluster in clusters), reverse=True)


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["red", "blue", "green"]), min_size=1))
def test_with_one_axis_for_each_meaning_similarity_is_equality(answers):
    vectors = np.eye(3)[[["red", "blue", "green"].index(answer) for answer in answers]]
    assert by_similarity(vectors, answers, 0.9) == by_match(answers)


def test_the_first_answer_left_takes_in_what_is_near_it_alone():
    """A chain of three at 20 degrees: the middle one is near both ends, which are apart."""
    angles = np.radians([0, 20, 40])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert told(by_similarity(vectors, ["a", "b", "c"], 0.9)) == [([0, 1], "a"), ([2], "c")]
    assert told(by_similarity(vectors[[1, 0, 2]], ["b", "a", "c"], 0.9)) == [([0, 1, 2], "b")]


@pytest.mark.parametrize(
    ("size", "samples", "level"), [(80, 100, 8), (85, 100, 9), (84, 100, 8), (1, 20, 1), (0, 7, 0), (5, 5, 10)]
)
def test_halves_are_rounded_up(size, samples, level):
    assert agreement(size, samples) == level


def test_keep_rules():
    clusters = by_match(ANSWERS)
    for rule, golds, kept in [
        ("gold", ["blue"], "Blue"),
        ("gold", ["white"], None),
        ("majority", ["blue"], "red"),
        ("gold_else_majority", ["blue"], "Blue"),
        ("gold_else_majority", ["white"], "red"),
        ("gold_else_majority", ["green", "blue"], "Blue"),
    ]:
        found = choose(clusters, golds, rule)
        assert (found.answer if found else None) == kept


MEANINGS = {"[UNK]": (0, 0), "red": (1, 0), "crimson": (0.98, 0.2), "blue": (0, 1)}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    """A sentence-transformers model of four words: a text means the mean of its words, and red and crimson nearly the same."""
    inner = Tokenizer(WordLevel({word: number for number, word in enumerate(MEANINGS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    words = StaticEmbedding(inner, embedding_weights=np.array(list(MEANINGS.values()), dtype=np.float32))
    folder = tmp_path_factory.mktemp("embedder")
    SentenceTransformer(modules=[words], device="cpu").save(str(folder))
    return folder


def test_by_a_real_embedding_model_two_words_for_one_thing_are_one_cluster(embedder):
    answers = ["red", "blue", "crimson", "red"]
    vectors = load_embedder(embedder)("what colour does fenwold wear ?", answers)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4))
    assert told(by_similarity(vectors, answers, 0.9)) == [([0, 2, 3], "red"), ([1], "blue")]
    assert told(by_similarity(vectors, answers, 0.99)) == told(by_match(answers))


def test_the_embedder_is_told_the_question(embedder):
    """The model knows the words of the question too, so an answer moves towards a question that names a colour."""
    embed = load_embedder(embedder)
    assert embed("is it red", ["blue"])[0] == pytest.approx(np.array([1, 1]) / 2**0.5, abs=1e-6)
    assert embed("is it", ["blue"])[0] == pytest.approx([0, 1], abs=1e-6)


def test_without_the_package_or_the_folder_it_says_so(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such model folder"):
        load_embedder(tmp_path / "none")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match="pip install sentence-transformers"):
        load_embedder(tmp_path)
