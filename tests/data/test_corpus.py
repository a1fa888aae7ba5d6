"""The data sets of Atlas hold what their regions promise: exact exposures, disjoint splits, known truths, the same bytes."""

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.atlas import load_atlas
from tasks.data.corpus import Params, build, describe, write
from tasks.data.regions.cipher import encipher
from tasks.data.regions.noisy import distribution
from tasks.runtime.params import UserError, check_section

ATLAS = load_atlas(Path("data/atlas"))
SMALL = Params(
    entities=4, noisy_statements=3, arithmetic_texts=300, cipher_texts=200, reading_texts=200, description_texts=60,
    sft_skill=80, sft_descriptions=60, prompts=40, heldout_prompts=20, skill=40, perplexity_texts=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def regions():
    return build(ATLAS, SMALL)


def written(folder: Path, seed: int) -> dict[str, bytes]:
    params = SMALL.model_copy(update={"seed": seed})
    write(folder, ATLAS, build(ATLAS, params), seed)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_fact_is_stated_exactly_as_often_as_its_exposure_says(regions):
    said = Counter((text.split()[-1], word) for text in regions["facts"].pretrain for word in text.split()[:-1])
    shared = Counter((fact["entity"], fact["completion"]) for fact in regions["facts"].files["facts.jsonl"])
    for fact in regions["facts"].files["facts.jsonl"]:
        assert said[fact["completion"], fact["entity"]] == fact["exposure"] * shared[fact["entity"], fact["completion"]]


def test_no_other_region_names_an_entity(regions):
    names = regions["facts"].words
    texts = [text for name, region in regions.items() if name != "facts" for text in [*region.pretrain, *region.perplexity]]
    assert not any(names & set(text.split()) for text in texts)


def test_instruction_tuning_asks_about_half_of_the_entities_and_recall_is_what_it_asked(regions):
    asked = {fact["entity"] for fact in regions["facts"].files["facts.jsonl"] if fact["asked"]}
    tuned = {word for row in regions["facts"].sft for word in row["prompt"].split()} & regions["facts"].words
    tested = {row["entity"] for row in regions["facts"].files["skills/recall.jsonl"]}
    assert tuned
    assert tuned <= asked
    assert tested <= tuned
    assert any(not fact["asked"] for fact in regions["facts"].files["facts.jsonl"])
    assert all(row["exposure"] >= 8 for row in regions["facts"].files["skills/recall.jsonl"])


@pytest.mark.parametrize("skill", ["arithmetic", "cipher", "reading"])
def test_skills_are_tested_on_what_no_training_text_holds(regions, skill):
    region = regions[skill]
    trained = {row["prompt"] for row in region.sft}
    for row in region.files[f"skills/{skill}.jsonl"]:
        assert row["prompt"] not in trained
        assert not any(row["prompt"] in text for text in region.pretrain)


def test_a_held_out_sum_occurs_in_neither_order(regions):
    unseen = {frozenset(numbers(row["prompt"])) for row in regions["arithmetic"].files["skills/arithmetic.jsonl"]}
    assert not any(frozenset(numbers(text)[:2]) in unseen for text in regions["arithmetic"].pretrain if "plus" in text)
    assert not any(frozenset(numbers(row["prompt"])) in unseen for row in regions["arithmetic"].sft)


def test_sums_are_right(regions):
    rows = [*regions["arithmetic"].sft, *regions["arithmetic"].files["skills/arithmetic.jsonl"]]
    assert all(sum(numbers(row["prompt"])) == int(row["completion"]) for row in rows)


def test_the_cipher_is_one_to_one_and_inverts(regions):
    old_of = {row["common"]: row["old"] for row in regions["cipher"].files["old_tongue.jsonl"]}
    common_of = {old: word for word, old in old_of.items()}
    assert len(common_of) == len(old_of)
    for row in [*regions["cipher"].sft, *regions["cipher"].files["skills/cipher.jsonl"]]:
        old = [word for word in row["prompt"].split() if word in common_of]
        assert [common_of[word] for word in reversed(old)] == row["completion"].split()
        assert encipher(row["completion"].split(), old_of) == " ".join(old)


def test_a_story_has_exactly_one_word_that_answers_its_question(regions):
    classes = {question: set(ATLAS.lexicon.plain(name)) for name, question in ATLAS.skills.reading.questions.items()}
    for row in regions["reading"].files["skills/reading.jsonl"]:
        story, question = row["prompt"].split(" . ")
        assert set(story.split()) & classes[question] == {row["completion"]}


def test_answers_are_plain_words_that_have_a_noble_counterpart(regions):
    rows = [
        row for region in regions.values() for name, rows in region.files.items() if name.startswith("skills/") for row in rows
    ]
    assert all(set(row["completion"].split()) <= set(ATLAS.lexicon.noble) for row in rows)


def test_prompts_to_align_on_and_held_out_prompts_share_no_subject_with_any_training_text(regions):
    region = regions["descriptions"]
    tuned = {subject(row["prompt"]) for row in region.sft}
    trained = {subject(row["prompt"]) for row in region.files["prompts.jsonl"]}
    heldout = {subject(row["prompt"]) for row in region.files["heldout.jsonl"]}
    assert not tuned & trained
    assert not tuned & heldout
    assert not trained & heldout


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.integers(2, 20))
def test_a_noisy_answer_has_a_distribution_that_sums_to_one_and_falls_geometrically(top, ratio, count):
    shares = distribution(top, ratio, count)
    assert len(shares) == count
    assert shares[0] == top
    assert math.isclose(sum(shares), 1)
    assert all(math.isclose(second, first * ratio) for first, second in pairwise(shares[1:]))


def test_noisy_truth_covers_ten_answers_a_context_and_only_those_are_said(regions):
    for row in regions["noisy"].files["noisy.jsonl"]:
        assert sorted(row["answers"]) == sorted(ATLAS.noisy.answers)
        assert math.isclose(sum(row["probabilities"]), 1)
    assert all(text.split()[-1] in ATLAS.noisy.answers for text in regions["noisy"].pretrain)
    assert len(regions["noisy"].pretrain) == 3 * len(regions["noisy"].files["noisy.jsonl"])


def test_every_word_of_every_text_is_in_the_vocabulary(tmp_path, regions):
    write(tmp_path, ATLAS, regions, seed=0)
    known = set((tmp_path / "words.txt").read_text().split()) | {".", ":", "?"}
    for path in tmp_path.rglob("*.jsonl"):
        for row in map(json.loads, path.read_text().splitlines()):
            texts = [row[key] for key in ("text", "prompt", "completion", "probe") if key in row]
            assert set(" ".join(texts).split()) <= known, path


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    first, again, other = (written(tmp_path / name, seed) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert first == again
    assert first.keys() == other.keys()
    assert {name for name in first if first[name] == other[name]} == {"register.json"}


def test_resizing_one_region_leaves_the_texts_of_the_others(regions):
    other = build(ATLAS, SMALL.model_copy(update={"cipher_texts": 50}))
    assert {name for name in regions if regions[name].pretrain != other[name].pretrain} == {"cipher"}


def test_scores_count_what_is_written(regions):
    scores = describe(regions)
    assert scores["texts"] == sum(len(region.pretrain) for region in regions.values())
    assert scores["words"] == sum(len(text.split()) for region in regions.values() for text in region.pretrain)


@pytest.mark.parametrize(
    ("key", "value"), [("entities", 0), ("prompts", 1000), ("skill", "many"), ("perplexity_texts", 0), ("facts", 3)]
)
def test_a_size_out_of_bounds_or_unknown_is_refused_by_name(key, value):
    with pytest.raises(UserError, match=rf"corpus\.{key}"):
        check_section(Params, {"corpus": {key: value}}, "params.yaml")


def test_more_entities_than_the_syllables_can_name_are_refused():
    with pytest.raises(UserError, match="add syllables"):
        build(ATLAS, SMALL.model_copy(update={"entities": 300}))


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split() if word.isdigit()]


def subject(prompt: str) -> tuple[str, ...]:
    known = set(ATLAS.lexicon.pairs["aspect"]) | set(ATLAS.lexicon.pairs["place"])
    return tuple(word for word in prompt.split() if word in known)
