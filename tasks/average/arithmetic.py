"""The arithmetic of averaging on raw tensors: in the next wider floating type, rounded once, a block at a time in cache.

16-bit tensors are averaged in float32. Float32 tensors are averaged in float64: in their own type there would be three
roundings, and where two weights nearly cancel the error would be many units of the result.
NumPy has no bfloat16; its values are the upper halves of float32, so widening is a shift and rounding is integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 15
"""Elements at a time: the buffers of one block stay in a core's second-level cache."""
STORED: dict[str, np.dtype[Any]] = {
    name: np.dtype(code) for name, code in {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}.items()
}
WIDER = {"BF16": np.float32, "F16": np.float32, "F32": np.float64, "F64": np.float64}


@dataclass
class Squares:
    """Sums of squares over elements, of the difference `post - pre` and of `pre`; not finite where a weight is not."""

    difference: float = 0.0
    pre: float = 0.0

    def __add__(self, other: Squares) -> Squares:
        """Return the sums over both sets of elements."""
        return Squares(self.difference + other.difference, self.pre + other.pre)


def blend(
    pre: memoryview, post: memoryview, dtype: str, ratios: Sequence[float], write: Callable[[int, int, NDArray], None]
) -> Squares:
    """Average two raw tensors (flat, little-endian, of `dtype`) with every ratio w in `ratios`: `w * pre + (1 - w) * post`.

    Calls `write(k, first, values)` for the k-th ratio with elements from number `first` on, as stored; `values` is only valid
    inside the call. Rounding is to nearest, ties to even. Ratios 0 and 1 give `post` and `pre` bit for bit.
    """
    pre_all, post_all = np.frombuffer(pre, STORED[dtype]), np.frombuffer(post, STORED[dtype])
    assert pre_all.shape == post_all.shape
    buffers = np.empty((4, min(BLOCK, len(pre_all))), WIDER[dtype])
    squares = Squares()
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for first in range(0, len(pre_all), BLOCK):
            sides = pre_all[first : first + BLOCK], post_all[first : first + BLOCK]
            wide_pre, wide_post, total, term = buffers[:, : len(sides[0])]
            _widen(sides[0], wide_pre)
            _widen(sides[1], wide_post)
            squares += _squares(wide_pre, wide_post, term)
            for k, ratio in enumerate(ratios):
                if ratio in (0, 1):
                    write(k, first, sides[0] if ratio == 1 else sides[1])
                    continue
                np.multiply(wide_pre, ratio, out=total)
                np.multiply(wide_post, 1.0 - ratio, out=term)
                np.add(total, term, out=total)
                write(k, first, _narrow(total, term, STORED[dtype]))
    return squares


def _widen(stored: NDArray, wide: NDArray) -> None:
    """Write the values of a block into its wider type."""
    if stored.dtype == STORED["BF16"]:
        bits = wide.view(np.uint32)
        np.copyto(bits, stored)
        np.left_shift(bits, 16, out=bits)
    else:
        np.copyto(wide, stored)


def _narrow(wide: NDArray, spare: NDArray, stored: np.dtype[Any]) -> NDArray:
    """Round a block to the type it is stored in; `wide` and `spare` are overwritten.

    For bfloat16, adding half a unit of the upper half, less one where that is even, carries into it exactly when rounding
    to nearest even goes up. A NaN cannot overflow: it came from a bfloat16, so its lower half is zero.
    """
    if stored != STORED["BF16"]:
        return wide.astype(stored)
    bits, carry = wide.view(np.uint32), spare.view(np.uint32)
    np.right_shift(bits, 16, out=carry)
    np.bitwise_and(carry, 1, out=carry)
    np.add(carry, 0x7FFF, out=carry)
    np.add(bits, carry, out=bits)
    np.right_shift(bits, 16, out=bits)
    return bits.astype(stored)


def _squares(pre: NDArray, post: NDArray, spare: NDArray) -> Squares:
    """Return the sums of squares of a block; by einsum, because BLAS sums in an order that depends on the number of cores."""
    np.subtract(post, pre, out=spare)
    return Squares(float(np.einsum("i,i->", spare, spare)), float(np.einsum("i,i->", pre, pre)))
