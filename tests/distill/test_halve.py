"""A student has its teacher's words and every second layer, and works like any model of its size."""

import pytest
import torch

from tasks.distill import halve
from tasks.distill.halve import Params
from tasks.runtime.models import load_causal
from tasks.runtime.params import UserError
from tasks.runtime.stage import Run
from tests.tiny import SHAPE, config, save


def teacher(layers: int):
    from transformers import LlamaForCausalLM

    shape = config(3)
    shape.num_hidden_layers = layers
    return LlamaForCausalLM(shape).eval()


def halved(place, layers: int, every: int = 2):
    model = teacher(layers)
    save(model, place / "teacher")
    halve.main(
        Params(every=every), Run("halve", "i", None), teacher=place / "teacher", out=place / "half", scores=place / "s.json"
    )
    return model, load_causal(place / "half")[0]


@pytest.mark.parametrize(("layers", "every", "kept"), [(4, 2, [0, 2]), (5, 2, [0, 2, 4]), (6, 3, [0, 3])])
def test_the_layers_kept_are_the_first_of_each_pair(tmp_path, layers, every, kept):
    model, student = halved(tmp_path, layers, every)
    assert student.config.num_hidden_layers == len(student.model.layers) == len(kept)
    for mine, number in zip(student.model.layers, kept, strict=True):
        for (name, own), (_, theirs) in zip(mine.named_parameters(), model.model.layers[number].named_parameters(), strict=True):
            assert torch.equal(own, theirs), name
    assert torch.equal(student.lm_head.weight, model.lm_head.weight)


def test_a_student_gives_the_same_with_and_without_a_cache(tmp_path):
    _, student = halved(tmp_path, 4)
    ids = torch.tensor([[4, 9, 6, 11]])
    with torch.no_grad():
        whole = student(ids).logits[0, -1]
        first = student(ids[:, :3], use_cache=True)
        last = student(ids[:, 3:], past_key_values=first.past_key_values, use_cache=True).logits[0, -1]
    assert torch.allclose(whole, last, atol=1e-5)


def test_too_few_layers_are_refused(tmp_path):
    assert SHAPE["num_hidden_layers"] == 2
    with pytest.raises(UserError, match="needs a list `layers` with at least `every`"):
        halved(tmp_path, 2, every=3)
