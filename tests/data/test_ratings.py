"""The world of wishes: prompts in one file only, directions that tell nothing, ratings with gaps, a conflict an oracle sees."""

import json
import random

import pytest

from tasks.data.ratings import CONFLICT, ROLES, SOURCES, Params, check_conflict, main, oracle, rated
from tasks.data.regions.wishes import FEWEST, MOST, THINGS, WORLD, answer, prompts
from tasks.runtime.directions import ATTRIBUTES, system_prompt
from tasks.runtime.models import load_tokenizer
from tasks.runtime.params import UserError

SMALL = {"sft": 400, "rated": 300, "heldout_rated": 40, "prompts": 30, "heldout": 20, "validation": 10}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The stage's outs at a small size."""
    place = tmp_path_factory.mktemp("made")
    main(Params(**SMALL), None, out=place / "sets", scores=place / "scores.json")
    return place


def rows(made, name):
    return [json.loads(line) for line in (made / f"sets/{name}.jsonl").open()]


def test_no_set_of_wishes_stands_in_two_files(made):
    asked = [
        row["prompt"] for name in ("heldout", "prompts", "ratings", "ratings-test", "validation") for row in rows(made, name)
    ]
    asked += [row["messages"][1]["content"] for row in rows(made, "sft")]
    assert len({frozenset(prompt.split()) for prompt in asked}) == len(asked) == sum(SMALL.values())
    assert all(FEWEST <= len(prompt.split()) <= MOST for prompt in asked)


def test_conversations_hold_the_printed_direction_and_end_with_the_assistant(made):
    for row in rows(made, "sft"):
        assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == system_prompt(row["angle"])


def test_before_training_the_direction_tells_nothing_of_the_answer(made):
    from scipy import stats

    found = rows(made, "sft")
    words = [len(row["messages"][2]["content"].split()) for row in found]
    assert abs(stats.spearmanr([row["angle"] for row in found], words).statistic) < 0.15
    assert set(words) == set(range(1, 17))


def test_each_source_rates_its_own_attributes_and_leaves_the_rest_null(made):
    found = rows(made, "ratings")
    assert {row["source"] for row in found} == set(SOURCES)
    for row in found:
        assert {name for name in ATTRIBUTES if row["ratings"][name] is not None} == set(SOURCES[row["source"]])


def test_ratings_without_noise_are_the_truth():
    rng = random.Random(0)
    for row in rated(rng, prompts(rng, 50, set()), noise=0.0):
        truth = WORLD.ratings(row["prompt"], row["response"])
        assert all(value in (None, truth[name]) for name, value in row["ratings"].items())


def test_the_oracle_is_asked_before_anything_is_written_and_its_choices_are_stored(made):
    words = json.loads((made / "scores.json").read_text())["oracle_words"]
    assert words["-45"] + CONFLICT <= words["0"] <= words["45"] - CONFLICT


def test_the_oracle_chooses_by_the_true_reward(monkeypatch):
    """Three answers to one prompt, the best of each direction worked by hand: 4, 7 and 12 words."""
    texts = [
        "apple honey salt rope",
        "apple honey salt rope thread onion plum",
        "apple honey salt rope thread onion" + " well" * 6,
    ]
    drawn = iter(texts)
    monkeypatch.setattr("tasks.data.ratings.answer", lambda rng, prompt: next(drawn))
    assert oracle(["apple honey salt rope thread onion plum"], 3, random.Random(0)) == {"-45": 4, "0": 7, "45": 12}


def test_rewards_that_do_not_conflict_are_refused():
    with pytest.raises(UserError, match="8.0, 8.5, 14.0 words on average: the rewards do not conflict"):
        check_conflict([8.0, 8.5, 14.0])


def test_the_same_seed_gives_the_same_bytes_and_another_other_prompts(made, tmp_path):
    for seed in (0, 1):
        main(Params(**SMALL, seed=seed), None, out=tmp_path / str(seed), scores=tmp_path / f"{seed}.json")
    for path in (made / "sets").glob("*.jsonl"):
        assert (tmp_path / "0" / path.name).read_bytes() == path.read_bytes()
        assert (tmp_path / "1" / path.name).read_bytes() != path.read_bytes()


def test_every_text_is_made_of_known_tokens(made):
    tokenizer = load_tokenizer(made / "sets/tokenizer")
    assert set(ROLES) <= set(tokenizer.get_vocab())
    texts = [turn["content"] for row in rows(made, "sft") for turn in row["messages"]]
    assert tokenizer.unk_token_id not in {number for ids in tokenizer(texts)["input_ids"] for number in ids}


def test_answers_never_name_a_wish_twice():
    rng = random.Random(3)
    for prompt in prompts(rng, 100, set()):
        said = [word for word in answer(rng, prompt).split() if word in prompt.split() and word in THINGS]
        assert len(said) == len(set(said))
