"""The reference backend is dense algebra with a mask, for every block size, dtype and pattern.

In float64 only the order of additions differs, 1e-15 or so for sums of a few hundred normal numbers; 1e-12 leaves room
for nothing else. In the other dtypes the dense result is computed in float64 from the rounded inputs, and the tolerance
is one rounding of the dtype, for sums are made in fp32: half of its epsilon, and as much again for sums near a tie.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dsparse.kernels import reference
from dsparse.kernels.index import BlockIndex
from dsparse.layout.packed import pack
from dsparse.pattern.block_pattern import BlockPattern
from tests.kernels.products import Product, product_of, shuffled
from tests.pattern.reference import pattern_of, patterns

BLOCKS = [1, 2, 3, 4, 5, 7, 8, 16, 32, 64]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def close(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def check(product: Product, dtype: torch.dtype = torch.float64) -> None:
    x, dy, index = product.x.double(), product.dy.double(), product.index
    weight, bias = product.dense().double(), product.bias.double()
    for one_bias in (None, product.bias):
        y, none = reference.forward(product.x, product.values, one_bias, index)
        assert none is None
        close(y, F.linear(x, weight, None if one_bias is None else bias), dtype)
        gelu, y_again = reference.forward(product.x, product.values, one_bias, index, gelu=True)
        assert y_again is not None and torch.equal(y_again, y)
        assert torch.equal(gelu, F.gelu(y))
    close(reference.input_gradient(product.dy, product.values, index), dy @ weight, dtype)
    for with_bias in (False, True):
        dvalues, dbias = reference.weight_gradient(
            product.dy, product.x, index, product.pattern.block, with_bias=with_bias
        )
        close(dvalues, pack(dy.mT @ x, product.pattern), dtype)
        assert (dbias is None) == (not with_bias)
        if dbias is not None:
            close(dbias, dy.sum(0), dtype)


@given(patterns(max_side=4), st.integers(0, 6), st.integers(0, 2**31))
def test_any_pattern(pattern: BlockPattern, tokens: int, seed: int) -> None:
    check(product_of(pattern, tokens=tokens, dtype=torch.float64, seed=seed))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_size_and_dtype(block: int, dtype: torch.dtype) -> None:
    pattern = shuffled(BlockPattern.random((4 * block, 3 * block), block=block, density=0.5, seed=block))
    assert reference.supports(block, dtype)
    check(product_of(pattern, tokens=9, dtype=dtype), dtype)


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (4, 1), (3, 4)])
def test_few_tokens(tokens: int, grid: tuple[int, int]) -> None:
    shape = (grid[0] * 4, grid[1] * 4)
    product = product_of(BlockPattern.random(shape, block=4, density=0.6), tokens=tokens, dtype=torch.float64)
    y = reference.forward(product.x, product.values, product.bias, product.index)[0]
    assert y.shape == (tokens, shape[0])
    assert reference.input_gradient(product.dy, product.values, product.index).shape == (tokens, shape[1])
    check(product)


def test_no_tokens_have_gradients_of_zero() -> None:
    product = product_of(BlockPattern.random((12, 8), block=4, density=0.6), tokens=0)
    dvalues, dbias = reference.weight_gradient(product.dy, product.x, product.index, 4, with_bias=True)
    assert torch.equal(dvalues, torch.zeros_like(product.values))
    assert dbias is not None and torch.equal(dbias, torch.zeros(12))


@pytest.mark.parametrize("block", [1, 4])
def test_empty_rows_are_bias_and_empty_columns_have_no_gradient(block: int) -> None:
    pattern = pattern_of([5, 3], (3 * block, 3 * block), block)  # row 1, columns 0 and 2
    product = product_of(pattern, tokens=3, dtype=torch.float64)
    y = reference.forward(product.x, product.values, product.bias, product.index)[0]
    for row in (0, 2):
        part = slice(row * block, (row + 1) * block)
        assert torch.equal(y[:, part], product.bias[part].expand(3, -1))
    dx = reference.input_gradient(product.dy, product.values, product.index)
    assert torch.equal(dx[:, block : 2 * block], torch.zeros(3, block, dtype=torch.float64))
    check(product)


def test_no_blocks_at_all() -> None:
    product = product_of(pattern_of([], (4, 6), 2), tokens=3, dtype=torch.float64)
    check(product)


def test_what_is_inactive_is_not_read() -> None:
    """NaN in the input of a column without blocks reaches no output; a product with zeros would spread it."""
    product = product_of(pattern_of([0, 4], (4, 6), 2), tokens=3)  # columns 0 and 1 of three
    product.x[:, 4:] = torch.nan
    assert reference.forward(product.x, product.values, product.bias, product.index)[0].isfinite().all()
    assert reference.weight_gradient(product.dy, product.x, product.index, 2)[0].isfinite().all()
    product.x[:, 3] = torch.nan
    assert not reference.forward(product.x, product.values, product.bias, product.index)[0].isfinite().all()


@given(patterns(max_side=4), st.integers(0, 2**31))
def test_slots_have_no_order(pattern: BlockPattern, seed: int) -> None:
    """The same blocks in other slots give the same bits: a row is summed in column order."""
    order = torch.randperm(pattern.num_active, generator=torch.Generator().manual_seed(seed))
    one = product_of(pattern, seed=seed)
    same = BlockPattern(pattern.rows[order], pattern.cols[order], pattern.shape, pattern.block)
    index, values = BlockIndex.of(same), one.values[order]
    for gelu in (False, True):
        expected = reference.forward(one.x, one.values, one.bias, one.index, gelu=gelu)
        assert torch.equal(reference.forward(one.x, values, one.bias, index, gelu=gelu)[0], expected[0])
    dx = reference.input_gradient(one.dy, one.values, one.index)
    assert torch.equal(reference.input_gradient(one.dy, values, index), dx)
    dvalues = reference.weight_gradient(one.dy, one.x, one.index, pattern.block)[0]
    assert torch.equal(reference.weight_gradient(one.dy, one.x, index, pattern.block)[0], dvalues[order])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_long_rows_of_single_weights_are_summed_wide(dtype: torch.dtype) -> None:
    """512 ones after a large number: a sum in the dtype would stay where it is, each one being under half a unit."""
    pattern = pattern_of(list(range(513)), (1, 513), 1)
    product = product_of(pattern, tokens=2, dtype=dtype)
    product.x.fill_(1)
    product.values.fill_(1)[0] = 4096
    y = reference.forward(product.x, product.values, None, product.index)[0]
    assert y.tolist() == [[4608.0]] * 2


def test_repeats_bit_for_bit() -> None:
    product = product_of(shuffled(BlockPattern.random((64, 64), block=8, density=0.4)), tokens=33)
    first = reference.forward(product.x, product.values, product.bias, product.index)[0]
    assert torch.equal(first, reference.forward(product.x, product.values, product.bias, product.index)[0])


def test_what_it_has() -> None:
    assert reference.is_available() == (True, "")
    assert reference.runs_on("cpu") and reference.runs_on("cuda")
    assert not reference.supports(0, torch.float32)
    assert not reference.supports(4, torch.int32)
    assert not reference.supports(4, torch.complex64)
