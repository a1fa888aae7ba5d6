"""A direction is a unit vector that is printed in whole percents, and no policy is trained that cannot read it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.ratings import world_tokenizer
from tasks.runtime.directions import along, conditioned, direction, render, system_prompt, told, weights
from tasks.runtime.models import encode_prompt
from tasks.runtime.params import UserError


@given(st.floats(-90, 90))
def test_a_direction_has_length_one(angle):
    assert abs(math.hypot(*direction(angle)) - 1) < 1e-12


@pytest.mark.parametrize(("angle", "printed"), [(0, (100, 0)), (45, (71, 71)), (-15, (97, -26)), (-45, (71, -71))])
def test_weights_are_printed_in_whole_percents(angle, printed):
    assert weights(angle) == printed
    assert system_prompt(angle).endswith(f"weighted rating = helpfulness*{printed[0]} + verbosity*{printed[1]}")


def test_answers_are_scored_with_the_exact_vector_not_the_printed_one():
    assert along(45, {"helpfulness": 80.0, "verbosity": 90.0}) == pytest.approx(170 / math.sqrt(2), abs=1e-12)


@pytest.mark.parametrize(("angle", "best", "reward"), [(45, 0, 120.2), (-45, 1, 35.4), (0, 0, 80.0)])
def test_each_direction_has_its_own_best(angle, best, reward):
    """Worked by hand, since the published illustration contradicts itself."""
    scores = [along(angle, {"helpfulness": h, "verbosity": v}) for h, v in ((80, 90), (70, 20), (75, 50))]
    assert scores.index(max(scores)) == best
    assert max(scores) == pytest.approx(reward, abs=0.05)


def test_the_direction_goes_by_the_names_of_the_ratings():
    assert along(-30, {"verbosity": 10.0, "helpfulness": 60.0}) == along(-30, {"helpfulness": 60.0, "verbosity": 10.0})


@pytest.mark.parametrize("angle", [-45, -15, 0, 33.3, 45])
def test_what_the_policy_reads_holds_both_weights_and_the_prompt(angle):
    tokenizer = world_tokenizer()
    words = conditioned(tokenizer)
    text = render(words, told("apple honey", angle))
    assert text.index(f"*{weights(angle)[0]} + verbosity*{weights(angle)[1]} ") < text.index("<user> apple honey")
    ids = encode_prompt(words, told("apple honey", angle))
    assert tokenizer.unk_token_id not in ids
    assert "".join(tokenizer.convert_ids_to_tokens(ids)).replace(" ", "") == text.replace(" ", "")


def test_the_tokenizer_itself_is_left_as_it_was():
    tokenizer = world_tokenizer()
    before = encode_prompt(tokenizer, "apple")
    conditioned(tokenizer)
    assert encode_prompt(tokenizer, "apple") == before


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "no chat template"),
        ("{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}", "drops the system turn"),
        ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}", "refuses a system turn"),
    ],
)
def test_a_template_that_loses_the_direction_is_refused(template, said):
    tokenizer = world_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=said):
        conditioned(tokenizer)
