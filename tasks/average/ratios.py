"""The ratios HMA may choose from: K of them in [0, 1] whose mean is given, as a smooth function of K free numbers `s`.

    h_k = sigmoid(s_k) + eps,    w_k = K * w_pre * h_k / sum_j h_j        (Lin et al. 2024, with the factor K its text leaves out)

The factor K makes the mean, not the sum, equal `w_pre`. Above a mean of 1/3 a single `w_k` can pass 1; clipping it would move the
mean, so the point is projected on the feasible set instead. All parts count once in the mean, whatever their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Literal

from tasks.runtime.params import UserError

if TYPE_CHECKING:
    import torch

Penalty = Literal["absolute", "square"]
HALVINGS = 60
"""Of the interval of length 2 at most that holds the shift: below the rounding of float64."""


def start(w_pre: float, parts: int) -> torch.Tensor:
    """Return the `s` [K], float64, from which a search starts: all parts equal. `w_pre` lies strictly between 0 and 1."""
    import torch

    return torch.full((parts,), math.log(w_pre / (1 - w_pre)), dtype=torch.float64)


def ratios(s_K: torch.Tensor, w_pre: float, eps: float) -> torch.Tensor:
    """Return the ratios [K] of the parts for the free numbers `s_K`; differentiable, also where the cap is active.

    Every ratio lies in [0, 1] and their mean is `w_pre`. Larger `eps` keeps them closer together: before the cap, the largest is
    less than (1 + eps) / eps times the smallest.
    """
    import torch

    h_K = torch.sigmoid(s_K) + eps
    return project(w_pre * len(s_K) * h_K / h_K.sum(), w_pre)


def project(w_K: torch.Tensor, w_pre: float) -> torch.Tensor:
    """Return the nearest point to `w_K` whose entries lie in [0, 1] and have mean `w_pre`: clip(w_k - v, 0, 1) for one shift v.

    Bisection tells which entries are clipped; then v follows from the others in closed form, so the mean is exact and gradients
    flow through v. Raises UserError for a mean that no such point has.
    """
    import torch

    if not 0 <= w_pre <= 1:
        raise UserError(f"no ratios between 0 and 1 have the mean {w_pre:g}; choose a w_pre between 0 and 1")
    total = w_pre * len(w_K)
    with torch.no_grad():
        low, high = w_K.min() - 1, w_K.max()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            enough = (w_K - middle).clamp(0, 1).sum() >= total
            low, high = (middle, high) if enough else (low, middle)
        full_K = w_K - low >= 1
        free_K = (w_K > low) & ~full_K
    shift = (w_K[free_K].sum() + full_K.sum() - total) / free_K.sum() if free_K.any() else low
    return (w_K - shift).clamp(0, 1)


def penalty(w_K: torch.Tensor, w_pre: float, shape: Penalty) -> torch.Tensor:
    """Return the regulariser sum_k f(w_k - w_pre), a scalar, every part counted once; f is the absolute value or the square."""
    away_K = w_K - w_pre
    return away_K.abs().sum() if shape == "absolute" else away_K.square().sum()


def reachable(w: Sequence[float], eps: float) -> bool:
    """Say whether `ratios` gives the point `w` for some finite `s`: with h in (eps, 1 + eps), the range of w_k is bounded.

    A point in [0, 1] that the projection can reach is reached without it too: a shift only asks for a wider range.
    """
    return max(w) * eps < min(w) * (1 + eps)


def simplex(w_pre: float, parts: int, step: float) -> Iterator[list[float]]:
    """Yield every point with `parts` entries from 0, `step`, ... 1 whose mean is `w_pre`.

    Raises UserError when `step` does not divide 1, or no such point has this mean.
    """
    steps, total = round(1 / step), round(w_pre * parts / step)
    if abs(steps * step - 1) > 1e-9 or abs(total * step - w_pre * parts) > 1e-9:
        raise UserError(f"a grid of step {step:g} over {parts} parts has no point of mean {w_pre:g}; choose another grid_step")
    for head in product(range(steps + 1), repeat=parts - 1):
        if 0 <= (last := total - sum(head)) <= steps:
            yield [count / steps for count in (*head, last)]
