"""The live merge: the weights of the recipe it was given last, and the derivative of its loss by every ratio."""

from functools import partial

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tasks.average.likelihood import negative_logprob
from tasks.average.merge import merge
from tasks.average.merged import Merged
from tasks.average.recipe import partwise, uniform
from tasks.average.weights import Weights
from tests.average.world import BOUNDS, average, deep, examples, pair
from tests.tiny import save

W = [0.2, 0.5, 0.3]
IDS = torch.arange(4, 16)[None]


@pytest.fixture(scope="module")
def models():
    return pair()


@pytest.fixture(scope="module")
def batch(models):
    return examples(*models)[:8]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("rest", ["mean", "pre", "post"])
def test_its_logits_are_those_of_a_model_with_the_averaged_weights(tied, rest):
    models, recipe = pair(tied), partwise(W, BOUNDS, rest)
    merged = Merged(*models, BOUNDS)
    merged.set(recipe)
    with torch.no_grad():
        torch.testing.assert_close(merged.model(IDS).logits, average(*models, recipe)(IDS).logits, rtol=1e-4, atol=1e-5)


def test_the_ends_are_the_two_models_bit_for_bit(models):
    merged = Merged(*models, BOUNDS)
    for w_pre, model in ((1.0, models[0]), (0.0, models[1]), (0.4, None), (1.0, models[0])):
        merged.set(uniform(w_pre, 3))
        if model:
            assert all(torch.equal(merged.model.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_it_computes_what_the_merge_on_disk_will(models, tmp_path):
    folders = [save(model, tmp_path / name) for model, name in zip(models, ("pre", "post"), strict=True)]
    merge(*map(Weights, folders), {tmp_path / "out": partwise(W, BOUNDS)})
    on_disk = deep(9).from_pretrained(tmp_path / "out")
    merged = Merged(*models, BOUNDS)
    merged.set(partwise(W, BOUNDS))
    for name, tensor in on_disk.state_dict().items():
        torch.testing.assert_close(merged.model.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


def differences(merged, loss, size):
    """dloss/dw_k by central differences of this size and twice of it, combined so that the error of second order cancels.

    `rest` is held fixed, as in the search.
    """

    def at(part, shift):
        merged.set(partwise([w + shift * (k == part) for k, w in enumerate(W)], BOUNDS, "pre"))
        with torch.no_grad():
            return loss(merged.model).item()

    def central(part, h):
        return (at(part, h) - at(part, -h)) / (2 * h)

    return [(4 * central(part, size) - central(part, 2 * size)) / 3 for part in range(3)]


def derivative(merged, loss):
    merged.set(partwise(W, BOUNDS, "pre"))
    loss(merged.model).backward()
    return merged.gradient().tolist()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_gradient_is_that_of_central_differences_in_float32(batch, tied):
    merged = Merged(*pair(tied), BOUNDS)
    loss = partial(negative_logprob, examples=batch)
    found_K, expected_K = torch.tensor([derivative(merged, loss), differences(merged, loss, 5e-3)])
    assert (found_K - expected_K).norm() <= 1e-3 * expected_K.norm()


def test_the_gradient_is_that_of_central_differences_in_float64():
    """On GPT-2, all of which computes in float64, and whose layers have other names, biases and transposed weights."""
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=44, n_embd=32, n_layer=3, n_head=4, n_positions=64, initializer_range=0.2)
    merged = Merged(GPT2LMHeadModel(shape), GPT2LMHeadModel(shape), BOUNDS, torch.float64)

    def loss(model):
        return torch.nn.functional.cross_entropy(model(IDS).logits[0, :-1], IDS[0, 1:])

    assert derivative(merged, loss) == pytest.approx(differences(merged, loss, 1e-3), rel=1e-6)


def test_no_gradient_of_a_tensor_outlives_the_backward_and_each_call_starts_anew(models, batch):
    merged = Merged(*models, BOUNDS)
    merged.set(partwise(W, BOUNDS))
    found = []
    for _ in range(2):
        negative_logprob(merged.model, batch).backward()
        assert all(parameter.grad is None for parameter in merged.model.parameters())
        found.append(merged.gradient())
    assert torch.equal(*found)
    assert not merged.gradient().any()


def test_tensors_whose_ratio_stays_are_not_written_again(models):
    merged = Merged(*models, BOUNDS)
    merged.set(partwise(W, BOUNDS))
    versions = {name: weight._version for name, weight in merged.weights.items()}
    merged.set(partwise([0.2, 0.6, 0.2], BOUNDS))  # the first part and the mean stay
    touched = {name for name, weight in merged.weights.items() if weight._version != versions[name]}
    assert touched == {name for name in versions if ".layers.1." in name or ".layers.2." in name}


def test_models_stored_in_sixteen_bits_are_merged_in_float32(models):
    halves = [deep(seed).bfloat16() for seed in (0, 1)]
    merged = Merged(*halves, BOUNDS)
    merged.set(uniform(0.5, 3))
    name = "model.layers.0.mlp.up_proj.weight"
    one, other = (half.state_dict()[name].float() for half in halves)
    assert torch.equal(merged.model.state_dict()[name], (one + other) / 2)
