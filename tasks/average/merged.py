"""One model that is the average of two, in memory, and what its loss says about the ratios.

Two models and one merged copy is all there is: the copy's weights are overwritten in place for every new ratio, the gradient of
each tensor is turned into its share of K numbers and dropped as soon as it is there, and no graph over the merge is kept.
"""

from __future__ import annotations

import copy
from bisect import bisect
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from tasks.average.recipe import Recipe, layer_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Merged:
    """The average of two models by a recipe, ready for forward and backward.

    `model` is in eval mode. Only tensors inside layers are differentiated; the rest follows the recipe. Tied weights count once.
    """

    def __init__(
        self, pre: PreTrainedModel, post: PreTrainedModel, bounds: Sequence[int], dtype: torch.dtype | None = None
    ) -> None:
        """Average `pre` and `post`, of equal tensors, in parts of these `bounds`; compute in `dtype`, float32 by default."""
        import torch

        self.model: PreTrainedModel = torch.nn.Module.to(copy.deepcopy(post), dtype or torch.float32).eval().requires_grad_(False)
        self.weights = _distinct(self.model)
        sides = (pre.state_dict(), post.state_dict())
        self.sides = {name: (sides[0][name], sides[1][name]) for name in self.weights}
        self._ratios: dict[str, float] = {}
        self._gradient_K = torch.zeros(len(bounds) - 1, dtype=torch.float64, device=self.model.device)
        for name, parameter in self.model.named_parameters():
            layer = layer_of(name)
            if layer is not None:
                parameter.requires_grad_(True)
                parameter.register_post_accumulate_grad_hook(partial(self._collect, name, bisect(bounds, layer) - 1))

    def set(self, recipe: Recipe) -> None:
        """Overwrite the weights with the average by `recipe`; tensors whose ratio is what it was are left alone."""
        import torch

        with torch.no_grad():
            for name, weight in self.weights.items():
                ratio = recipe.of(name)
                if self._ratios.get(name) != ratio:
                    pre, post = (side.to(weight.dtype) for side in self.sides[name])
                    torch.lerp(post, pre, ratio, out=weight)
                    self._ratios[name] = ratio

    def gradient(self) -> torch.Tensor:
        """Return dL/dw_k [K], float64, of all that was run backward since the last call.

        dL/dw_k = sum over the tensors W of part k of <dL/dW, W_pre - W_post>, because dW/dw_k = W_pre - W_post.
        """
        found_K = self._gradient_K.clone()
        self._gradient_K.zero_()
        return found_K

    def _collect(self, name: str, part: int, parameter: torch.Tensor) -> None:
        import torch

        assert parameter.grad is not None
        pre, post = (side.to(parameter.dtype) for side in self.sides[name])
        self._gradient_K[part] += torch.dot(parameter.grad.flatten(), (pre - post).flatten())
        parameter.grad = None


def _distinct(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return every floating tensor of a model's state by name, tied ones once."""
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    return {name: state[name] for name in {tensor.data_ptr(): name for name, tensor in state.items()}.values()}
