"""The truth of the world of wishes, worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.regions.wishes import TALK, THINGS, WORLD
from tasks.runtime.params import UserError
from tasks.runtime.wishes import load_wishes


@pytest.mark.parametrize(
    ("answer", "helpfulness"),
    [
        ("", 0.0),
        ("apple", 40.0),
        ("apple honey", 64.0),
        ("honey apple onion", 78.4),
        ("apple apple", 40.0 - 0.3),
        ("apple indeed well", 40.0 - 1.2),
        ("apple rope", 40.0 - 8.0),
        ("rope rope well", -8.0 - 1.2),
    ],
)
def test_wishes_met_help_less_and_less_and_the_rest_hurts(answer, helpfulness):
    found = WORLD.ratings("apple honey onion salt", answer)
    assert found["helpfulness"] == pytest.approx(helpfulness)
    assert found["verbosity"] == 100 * len(answer.split()) / 16


@given(st.lists(st.sampled_from(THINGS + TALK), max_size=16))
def test_talk_is_never_worth_its_length_for_help_alone(said):
    before, after = (WORLD.ratings("apple honey", " ".join(words)) for words in (said, [*said, "indeed"]))
    assert after["helpfulness"] < before["helpfulness"] <= 100
    assert after["verbosity"] == pytest.approx(before["verbosity"] + 100 / 16)


def test_the_world_comes_back_from_its_folder(tmp_path):
    WORLD.save(tmp_path)
    again = load_wishes(tmp_path)
    assert again.ratings("apple honey", "honey rope well") == WORLD.ratings("apple honey", "honey rope well")


def test_a_folder_without_a_world_is_refused(tmp_path):
    with pytest.raises(UserError, match="no wishes.json"):
        load_wishes(tmp_path)
