"""The one rule for which tensors are averaged, and in what proportion."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.average.recipe import alone, boundaries, count_layers, layer_of, partwise, split, uniform
from tasks.runtime.params import UserError

INSIDE = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("model.layers.0.input_layernorm.weight", 0),
        ("transformer.h.11.attn.c_attn.bias", 11),
        ("model.layers.3.mlp.experts.7.up_proj.weight", 3),
        ("model.embed_tokens.weight", None),
        ("model.norm.weight", None),
        ("lm_head.weight", None),
    ],
)
def test_a_tensor_belongs_to_the_first_number_in_its_name(tensor, layer):
    assert layer_of(tensor) == layer


@pytest.mark.parametrize(("rest", "expected"), [("mean", 0.3), ("pre", 1.0), ("post", 0.0)])
def test_rest_rules_only_what_is_outside_the_layers(rest, expected):
    recipe = uniform(0.3, 4, rest)
    assert recipe.of("model.embed_tokens.weight") == recipe.of("lm_head.weight") == expected
    assert recipe.of(INSIDE) == 0.3


def test_each_part_has_its_ratio_and_the_rest_their_mean():
    recipe = partwise([0.9, 0.1, 0.2], [0, 1, 3, 6])
    assert [recipe.of(f"model.layers.{layer}.w") for layer in range(6)] == [0.9, 0.1, 0.1, 0.2, 0.2, 0.2]
    assert recipe.of("lm_head.weight") == pytest.approx(0.4)


def test_equal_parts_are_the_uniform_recipe():
    """Otherwise the fronts of uniform and part-wise averaging could not be compared."""
    one, three = uniform(0.3, 6), partwise([0.3, 0.3, 0.3], split(6, 3))
    names = [*(f"model.layers.{layer}.w" for layer in range(6)), "lm_head.weight"]
    assert [one.of(name) for name in names] == [three.of(name) for name in names]


@given(st.integers(1, 200), st.data())
def test_split_covers_every_layer_once_in_equal_parts_with_the_remainder_last(layers, data):
    parts = data.draw(st.integers(1, layers))
    bounds = split(layers, parts)
    sizes = [stop - first for first, stop in pairwise(bounds)]
    assert (bounds[0], bounds[-1], len(sizes)) == (0, layers, parts)
    assert set(sizes[:-1]) <= {layers // parts}
    assert sizes[-1] == layers // parts + layers % parts


@pytest.mark.parametrize(
    ("w_pre", "bounds"), [([1.2], [0, 4]), ([-0.1], [0, 4]), ([0.1, 0.2], [0, 4]), ([0.1], [1, 4]), ([0.1, 0.2], [0, 3, 3])]
)
def test_a_wrong_recipe_is_refused(w_pre, bounds):
    with pytest.raises(UserError):
        partwise(w_pre, bounds)


def test_a_layer_beyond_the_parts_is_refused():
    with pytest.raises(UserError, match="layer 4"):
        uniform(0.2, 4).of("model.layers.4.w")


def test_a_split_into_more_parts_than_layers_is_refused():
    with pytest.raises(UserError, match="choose 1 to 2"):
        split(2, 3)


def test_a_model_without_layers_is_refused():
    with pytest.raises(UserError, match="layer number"):
        count_layers(["weight", "bias"])


def test_one_part_alone_leaves_all_else_the_rest_too_as_after_rlhf():
    recipe = alone(0.6, 1, [0, 1, 3, 6])
    assert [recipe.of(f"model.layers.{layer}.w") for layer in range(6)] == [0, 0.6, 0.6, 0, 0, 0]
    assert recipe.of("lm_head.weight") == 0
    assert recipe.w_pre == pytest.approx(0.2)


def test_boundaries_are_the_split_or_the_explicit_ones_that_cover_every_layer():
    assert boundaries(26, 3) == [0, 8, 16, 26]
    assert boundaries(26, 26) == list(range(27))
    assert boundaries(26, 3, [0, 8, 17, 26]) == [0, 8, 17, 26]
    for bad in ([0, 8, 17, 25], [1, 26], [0, 9, 9, 26], [0], []):
        with pytest.raises(UserError, match="do not cover the 26 layers"):
            boundaries(26, 3, bad)
