"""An adapter starts as nothing, alone learns, and merged computes the same; averaged weights are their closed form."""

import pytest
import torch

from tasks.rlhf.answers import encode, learn
from tasks.rlhf.ema import MovingAverage
from tasks.rlhf.lora import SCALE, merged, with_adapter
from tasks.runtime.params import UserError
from tests.tiny import llama, word_tokenizer

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def trained(rank: int = 2):
    torch.manual_seed(0)
    adapted = with_adapter(llama(), rank)
    answers = encode(word_tokenizer(), [("w1", "w2 w3"), ("w4", "w5")], context=16)
    learn(adapted, answers, learning_rate=1e-2, epochs=5, batch_size=2, seed=0)
    return adapted.eval()


def test_at_first_it_changes_nothing():
    with torch.no_grad():
        torch.testing.assert_close(with_adapter(llama(), 4)(IDS).logits, llama()(IDS).logits)


def test_merged_it_computes_the_same_and_is_a_plain_model():
    adapted = trained()
    with torch.no_grad():
        before = adapted(IDS).logits
        plain = merged(adapted)
        torch.testing.assert_close(plain(IDS).logits, before, rtol=1e-4, atol=1e-4)
        assert (before - llama()(IDS).logits).abs().max() > 0.1, "it has learned something"
    assert type(plain) is type(llama())
    assert list(plain.state_dict()) == list(llama().state_dict())


def test_what_changed_has_the_rank_and_leaves_the_rest_alone():
    start = llama().state_dict()
    for name, weight in merged(trained()).state_dict().items():
        moved = weight - start[name]
        if "proj" in name:
            assert 0 < torch.linalg.matrix_rank(moved, rtol=1e-3) <= 2, name
        else:
            assert moved.abs().max() == 0, name


def test_the_product_is_scaled_alike_for_every_rank():
    assert SCALE == 2
    for rank in (1, 8):
        layer = with_adapter(llama(), rank).base_model.model.model.layers[0].mlp.up_proj
        assert layer.scaling["default"] == SCALE


def test_a_rank_larger_than_a_layer_is_refused():
    with pytest.raises(UserError, match=r"rank 17 exceeds 16, the shorter side of model.layers.0.self_attn.k_proj"):
        with_adapter(llama(), 17)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_moving_average_is_its_closed_form(decay):
    model = llama()
    average, course = MovingAverage(model, decay), [model.lm_head.weight.detach().clone()]
    for _ in range(4):
        with torch.no_grad():
            model.lm_head.weight.add_(torch.randn_like(model.lm_head.weight))
        average.update(model)
        course.append(model.lm_head.weight.detach().clone())
    expected = decay**4 * course[0] + (1 - decay) * sum(decay ** (4 - k) * course[k] for k in range(1, 5))
    average.copy_to(model)
    torch.testing.assert_close(model.lm_head.weight.detach(), expected)
    assert torch.equal(model.model.norm.weight, llama().model.norm.weight), "what stands still stays where it is"
