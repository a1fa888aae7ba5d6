"""Which share of the model before RLHF every tensor gets: the one rule that uniform, part-wise and learned averaging share.

If two methods averaged different sets of tensors, their fronts could not be compared. So here, for all of them: a tensor
inside layer k follows the part that holds layer k, and `rest` (embeddings, final norm, output head) follows one field.

The convention, in files, logs and reports: `w_pre` is the weight on the model BEFORE RLHF,
`theta = w_pre * theta_pre + (1 - w_pre) * theta_post`. (The literature calls either weight alpha, so alpha is not used here.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from tasks.runtime.params import UserError

CONVENTION = "theta = w_pre * theta_pre + (1 - w_pre) * theta_post"
Rest = Literal["mean", "pre", "post"]
LAYER = re.compile(r"\.(\d+)\.")


def _all_different(values: list[float]) -> list[float]:
    if len(set(values)) != len(values):
        raise ValueError("every w_pre of the sweep may stand only once")
    return values


Share = Annotated[float, Field(ge=0, le=1)]
Sweep = Annotated[list[Share], Field(min_length=1), AfterValidator(_all_different)]
"""The points of a front, one for each w_pre."""


@dataclass(frozen=True)
class Part:
    """Consecutive layers `first` to `stop - 1`, all averaged with the same `w_pre`."""

    first: int
    stop: int
    w_pre: float


@dataclass(frozen=True)
class Recipe:
    """The ratio of every tensor of a model."""

    w_pre: float
    """The mean of the parts' ratios, each part counted once whatever its size."""
    parts: tuple[Part, ...]
    """Consecutive parts that cover all layers."""
    rest: Rest = "mean"
    """What tensors outside the layers get: `mean` = `w_pre`, `pre` = 1, `post` = 0."""

    def of(self, tensor: str) -> float:
        """Return the weight on `theta_pre` for the tensor of this name. Raises UserError for a layer outside all parts."""
        layer = layer_of(tensor)
        if layer is None:
            return {"mean": self.w_pre, "pre": 1.0, "post": 0.0}[self.rest]
        for part in self.parts:
            if part.first <= layer < part.stop:
                return part.w_pre
        raise UserError(f"tensor {tensor} is in layer {layer}, but the parts end at layer {self.parts[-1].stop - 1}")

    def describe(self) -> dict[str, Any]:
        """Return the recipe as the JSON that goes beside the weights."""
        parts = [{"first": part.first, "stop": part.stop, "w_pre": part.w_pre} for part in self.parts]
        return {"convention": CONVENTION, "w_pre": self.w_pre, "parts": parts, "rest": self.rest}


def uniform(w_pre: float, layers: int, rest: Rest = "mean") -> Recipe:
    """Return the recipe that gives every one of `layers` layers the same `w_pre`, 0 to 1."""
    return partwise([w_pre], [0, layers], rest)


def partwise(w_pre: Sequence[float], bounds: Sequence[int], rest: Rest = "mean") -> Recipe:
    """Return the recipe with ratio `w_pre[k]` in layers `bounds[k]` to `bounds[k + 1] - 1`.

    Raises UserError for a ratio outside [0, 1] or bounds that do not rise from 0 with one more entry than ratios.
    """
    if bad := [w for w in w_pre if not 0 <= w <= 1]:
        raise UserError(f"w_pre must lie between 0 (only the model after RLHF) and 1 (only the one before), got {bad[0]}")
    spans = list(pairwise(bounds))
    if len(spans) != len(w_pre) or bounds[0] != 0 or any(first >= stop for first, stop in spans):
        raise UserError(f"{len(w_pre)} ratios need {len(w_pre) + 1} bounds that rise from 0, got {list(bounds)}")
    parts = tuple(Part(first, stop, float(w)) for (first, stop), w in zip(spans, w_pre, strict=True))
    mean = float(w_pre[0]) if len(set(w_pre)) == 1 else sum(w_pre) / len(w_pre)
    return Recipe(mean, parts, rest)


def alone(w_pre: float, only: int, bounds: Sequence[int]) -> Recipe:
    """Return the recipe that averages part number `only` with ratio `w_pre` and leaves all else, the rest too, as after RLHF.

    Part-wise averaging (Lin et al. 2024) shows which end of the network pays the alignment tax: what is not in the part must not
    move, so the rest is `post`. The recipe's own `w_pre` is the mean over the parts.
    """
    return partwise([w_pre if part == only else 0.0 for part in range(len(bounds) - 1)], bounds, "post")


def boundaries(layers: int, parts: int, explicit: Sequence[int] | None = None) -> list[int]:
    """Return the bounds of the parts of a model of `layers` layers: the `explicit` ones, else those of `split`.

    Raises UserError unless they rise from 0 to `layers`, so that every layer is in one part.
    """
    if explicit is None:
        return split(layers, parts)
    rising = all(first < stop for first, stop in pairwise(explicit))
    if len(explicit) < 2 or explicit[0] != 0 or explicit[-1] != layers or not rising:
        raise UserError(f"bounds {list(explicit)} do not cover the {layers} layers; they must rise from 0 to {layers}")
    return list(explicit)


def split(layers: int, parts: int) -> list[int]:
    """Return the bounds of `parts` consecutive parts of `layers` layers: equal sizes, the remainder to the last."""
    if not 1 <= parts <= layers:
        raise UserError(f"a model of {layers} layers cannot be split into {parts} parts; choose 1 to {layers}")
    return [*range(0, parts * (layers // parts), layers // parts), layers]


def layer_of(tensor: str) -> int | None:
    """Return the number of the layer a tensor belongs to, or None: the first number in its dotted name (`model.layers.3.mlp`)."""
    found = LAYER.search(tensor)
    return int(found[1]) if found else None


def count_layers(tensors: Iterable[str]) -> int:
    """Return how many layers the named tensors span. Raises UserError when none of them is inside a layer."""
    layers = {layer for tensor in tensors if (layer := layer_of(tensor)) is not None}
    if not layers:
        raise UserError("no tensor name holds a layer number; is this a transformer?")
    return max(layers) + 1
