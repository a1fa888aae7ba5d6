"""Averages of raw tensors, against float64 and against torch's own rounding, for every bit pattern."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.average import arithmetic
from tasks.average.arithmetic import BLOCK, STORED, blend

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
BITS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}
PRECISION = {"BF16": (8, -126), "F16": (11, -14), "F32": (24, -126)}
"""Significant bits, and the exponent of the smallest normal number."""
SLACK = {"BF16": 1 + 2.0**-15, "F16": 1.0, "F32": 1.0}
"""What a stored value may be off beyond half a unit, as a factor: bfloat16 is rounded by way of float32."""
ratios = st.one_of(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), st.floats(0, 1))


def average(pre: np.ndarray, post: np.ndarray, dtype: str, w_pre: float) -> np.ndarray:
    """Average arrays of bits; return bits."""
    out = np.empty_like(pre)

    def write(k, first, values):
        out.view(STORED[dtype])[first : first + len(values)] = values

    blend(pre.data.cast("B"), post.data.cast("B"), dtype, [w_pre], write)
    return out


def values(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Decode bits as float64 with torch."""
    signed = bits.view(np.int32 if dtype == "F32" else np.int16)
    return torch.from_numpy(signed.copy()).view(DTYPES[dtype]).to(torch.float64).numpy()


def half_unit(number: np.ndarray, dtype: str) -> np.ndarray:
    """Return half a unit in the last place of the stored type, at `number`."""
    digits, smallest = PRECISION[dtype]
    exponent = np.maximum(np.frexp(number)[1] - 1, smallest)
    return np.exp2(exponent - digits)


@st.composite
def pairs(draw, dtype):
    """Two equally long arrays of any bits whatever."""
    length = draw(st.integers(1, 40))
    return tuple(draw(arrays(BITS[dtype], length)) for _ in range(2))


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), w_pre=ratios)
def test_within_one_rounding_of_float64(dtype, data, w_pre):
    pre, post = data.draw(pairs(dtype))
    a, b, out = values(pre, dtype), values(post, dtype), values(average(pre, post, dtype, w_pre), dtype)
    finite = np.isfinite(a) & np.isfinite(b)
    a, b, out = a[finite], b[finite], out[finite]
    reference = w_pre * a + (1 - w_pre) * b
    assert (np.abs(out - reference) <= SLACK[dtype] * half_unit(reference, dtype)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("w_pre", [0.1, 0.3, 0.5, 0.77])
def test_a_million_ordinary_weights_within_one_rounding(dtype, w_pre):
    generator = torch.Generator().manual_seed(0)
    stored = [torch.randn(1_000_000, generator=generator).mul(0.02).to(DTYPES[dtype]) for _ in range(2)]
    pre, post = (x.view(torch.int32 if dtype == "F32" else torch.int16).numpy().view(BITS[dtype]) for x in stored)
    a, b = (x.to(torch.float64).numpy() for x in stored)
    reference = w_pre * a + (1 - w_pre) * b
    error = np.abs(values(average(pre, post, dtype, w_pre), dtype) - reference)
    assert (error <= SLACK[dtype] * half_unit(reference, dtype)).all()


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@given(data=st.data(), w_pre=st.floats(0.001, 0.999))
def test_rounds_the_float64_result_to_nearest_even(dtype, data, w_pre):
    """Torch converts with code of its own; it too rounds to bfloat16 by way of float32."""
    pre, post = data.draw(pairs(dtype))
    a, b = (torch.from_numpy(values(side, dtype)) for side in (pre, post))
    expected = (a * w_pre + b * (1.0 - w_pre)).to(DTYPES[dtype]).to(torch.float64).numpy()
    np.testing.assert_array_equal(values(average(pre, post, dtype, w_pre), dtype), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_the_ends_are_bit_for_bit_even_for_nan_and_minus_zero(dtype, data):
    pre, post = data.draw(pairs(dtype))
    assert average(pre, post, dtype, 1.0).tobytes() == pre.tobytes()
    assert average(pre, post, dtype, 0.0).tobytes() == post.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), w_pre=ratios)
def test_every_average_lies_between_its_ends(dtype, data, w_pre):
    pre, post = data.draw(pairs(dtype))
    a, b, out = values(pre, dtype), values(post, dtype), values(average(pre, post, dtype, w_pre), dtype)
    finite = np.isfinite(a) & np.isfinite(b)
    assert (np.minimum(a, b)[finite] <= out[finite]).all()
    assert (out[finite] <= np.maximum(a, b)[finite]).all()


@settings(max_examples=20)
@given(length=st.integers(0, 40), offset=st.integers(0, 7), block=st.integers(1, 16))
def test_blocks_and_odd_addresses_do_not_show(length, offset, block):
    """A header of odd length leaves the tensors unaligned; the last block of a tensor is shorter than the others."""
    rng = np.random.default_rng(length)
    raw = [rng.standard_normal(length, dtype=np.float32) for _ in range(2)]
    shifted = [memoryview(bytes(offset) + side.tobytes())[offset:] for side in raw]
    out = np.zeros(length, np.float32)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "BLOCK", block)
        squares = blend(*shifted, "F32", [0.3], lambda k, first, part: found.append((first, part.copy())))
    for first, part in found:
        out[first : first + len(part)] = part
    pre, post = (side.astype(np.float64) for side in raw)
    np.testing.assert_array_equal(out, (pre * 0.3 + post * 0.7).astype(np.float32))
    assert squares.pre == pytest.approx((pre**2).sum())
    assert squares.difference == pytest.approx(((post - pre) ** 2).sum())


def test_several_ratios_in_one_pass_are_those_of_each_alone():
    rng = np.random.default_rng(0)
    pre, post = (rng.integers(0, 2**15, BLOCK + 5, dtype=np.uint16) for _ in range(2))
    sweep = [0.0, 0.2, 0.5, 1.0]
    out = np.empty((len(sweep), len(pre)), np.uint16)

    def write(k, first, part):
        out[k, first : first + len(part)] = part

    blend(pre.data.cast("B"), post.data.cast("B"), "BF16", sweep, write)
    for row, w_pre in zip(out, sweep, strict=True):
        np.testing.assert_array_equal(row, average(pre, post, "BF16", w_pre))
