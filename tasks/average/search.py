"""The search for the ratios of one mean: Adam on K numbers, the best point seen kept, the uniform start among them.

Every step merges with the current ratios, so the model that is differentiated is the model that is meant. The rate is one for K
numbers, not for a network: at a fine-tuning rate of 1e-5 the ratios would stay where they start.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import Field

from tasks.average.likelihood import logprob, negative_logprob
from tasks.average.merged import Merged
from tasks.average.ratios import Penalty, penalty, ratios, simplex, start
from tasks.average.recipe import Recipe, Rest, partwise
from tasks.runtime.packing import Example
from tasks.runtime.params import StageParams

if TYPE_CHECKING:
    import torch


class SearchParams(StageParams):
    """Params of the search for ratios."""

    eps: float = Field(0.2, ge=0, le=10)
    """Keeps the ratios together: the largest is less than (1 + eps) / eps times the smallest."""
    learning_rate: float = Field(0.1, gt=0, le=1)
    """Learning rate of Adam on the K numbers behind the ratios; each moves by about this much a step."""
    steps: int = Field(24, ge=0, le=10_000)
    """Most steps for one mean; 0 keeps the uniform ratios."""
    batch: int = Field(8, ge=1)
    """Answers of one step, and of one forward pass of a measurement."""
    check_every: int = Field(6, ge=1)
    """Steps between two measurements of the proxy likelihood."""
    validation: float = Field(0.2, ge=0, lt=1)
    """Share of the answers set aside to say when the search is flat; none: the fitted answers say it."""
    patience: int = Field(2, ge=1)
    """Measurements without gain after which the search of a mean ends."""
    flat: float = Field(1e-3, ge=0)
    """Smallest gain that counts, in nats per answer."""
    reg: float = Field(0.0, ge=0)
    """Weight of the regulariser that pulls the ratios to their mean, in nats per answer."""
    penalty: Penalty = "absolute"
    """The regulariser's measure of a ratio's distance from the mean: `absolute` or `square`."""


@dataclass(frozen=True)
class Proxy:
    """The answers whose likelihood is maximised, and those that say when to stop."""

    fit: Sequence[Example]
    held: Sequence[Example]

    @staticmethod
    def of(examples: Sequence[Example], share: float, rng: random.Random) -> Proxy:
        """Set a random `share` of the examples aside; with a share that rounds to none, the fitted ones also say when to stop."""
        mixed = rng.sample(examples, len(examples))
        count = min(round(share * len(mixed)), len(mixed) - 1)
        return Proxy(mixed[count:], mixed[:count] or mixed)


@dataclass(frozen=True)
class Point:
    """A measured point of the search."""

    step: int
    w: list[float]
    proxy_ll: float
    """Log-likelihood of the fitted answers, in nats per answer."""
    held_ll: float
    """The same of the answers set aside."""
    movement: float
    """How far the farthest `s_k` is from its start."""
    objective: float
    """What is maximised: `proxy_ll` less the regulariser."""


@dataclass(frozen=True)
class Space:
    """The feasible set of one mean: ratios of the parts within these bounds that average to `w_pre`."""

    w_pre: float
    bounds: Sequence[int]
    rest: Rest = "mean"

    @property
    def parts(self) -> int:
        """K."""
        return len(self.bounds) - 1

    @property
    def uniform(self) -> list[float]:
        """The point of homogeneous averaging."""
        return [self.w_pre] * self.parts

    def recipe(self, w: Sequence[float]) -> Recipe:
        """Return the recipe of a point; its mean is the given one, not that of its rounded ratios."""
        return replace(partwise(w, self.bounds, self.rest), w_pre=self.w_pre)


def search(
    merged: Merged,
    proxy: Proxy,
    space: Space,
    params: SearchParams,
    rng: random.Random,
    count: Callable[[], None] = lambda: None,
) -> list[Point]:
    """Maximise the proxy likelihood over `space` from uniform ratios; return the points measured, the start first.

    Ends after `params.steps`, or when the held answers have gained nothing for `patience` measurements. Where the mean is 0 or 1,
    or there is one part, the start is all there is. `count` is called after every step.
    """
    import torch

    points = [_measure(merged, proxy, space, params, 0, space.uniform, 0.0)]
    if space.parts == 1 or space.w_pre in (0, 1):
        return points
    origin_K = start(space.w_pre, space.parts)
    s_K = origin_K.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([s_K], lr=params.learning_rate)
    batches = _batches(proxy.fit, params.batch, rng)
    for step in range(1, params.steps + 1):
        update(merged, next(batches), space, params, s_K, optimizer)
        count()
        if step % params.check_every == 0 or step == params.steps:
            with torch.no_grad():
                w, movement = ratios(s_K, space.w_pre, params.eps).tolist(), (s_K - origin_K).abs().max().item()
            points.append(_measure(merged, proxy, space, params, step, w, movement))
            if _is_flat(points, params):
                break
    return points


def update(
    merged: Merged,
    batch: Sequence[Example],
    space: Space,
    params: SearchParams,
    s_K: torch.Tensor,
    optimizer: torch.optim.Optimizer,
) -> float:
    """Do one step on `s_K` from the gradient of the model merged with its current ratios; return the batch's loss."""
    w_K = ratios(s_K, space.w_pre, params.eps)
    merged.set(space.recipe(w_K.tolist()))
    loss = negative_logprob(merged.model, batch)
    loss.backward()
    optimizer.zero_grad()
    through_model = (w_K * merged.gradient().to(w_K.device)).sum()
    (through_model + params.reg * penalty(w_K, space.w_pre, params.penalty)).backward()
    optimizer.step()
    return loss.item()


def best(points: Sequence[Point]) -> Point:
    """Return the point of the largest objective, the earliest of equals: never worse than the start, which is uniform."""
    return max(points, key=lambda point: (point.objective, -point.step))


def grid(merged: Merged, proxy: Proxy, space: Space, step: float, batch: int) -> list[tuple[list[float], float]]:
    """Return every point of the grid of `space` with the proxy likelihood of its merge, in nats per answer."""
    found = []
    for w in simplex(space.w_pre, space.parts, step):
        merged.set(space.recipe(w))
        found.append((w, logprob(merged.model, proxy.fit, batch)))
    return found


def _measure(
    merged: Merged, proxy: Proxy, space: Space, params: SearchParams, step: int, w: list[float], movement: float
) -> Point:
    import torch

    merged.set(space.recipe(w))
    fit, held = (logprob(merged.model, examples, params.batch) for examples in (proxy.fit, proxy.held))
    pull = params.reg * penalty(torch.tensor(w, dtype=torch.float64), space.w_pre, params.penalty).item()
    return Point(step, w, fit, held, movement, fit - pull)


def _is_flat(points: Sequence[Point], params: SearchParams) -> bool:
    """Say whether the last `patience` points hold no held likelihood above that of all before by the gain that counts."""
    recent = max(point.held_ll for point in points[-params.patience :])
    before = [point.held_ll for point in points[: -params.patience]]
    return bool(before) and recent < max(before) + params.flat


def _batches(examples: Sequence[Example], size: int, rng: random.Random) -> Iterator[Sequence[Example]]:
    """Yield batches without end, every pass over the examples in a new order."""
    while True:
        mixed = rng.sample(examples, len(examples))
        yield from (mixed[first : first + size] for first in range(0, len(mixed), size))
