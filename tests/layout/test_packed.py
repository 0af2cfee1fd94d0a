"""A packed layer is the masked linear layer it came from, and behaves like any other module."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dsparse.kernels.index import BlockIndex
from dsparse.layout.packed import PackedLinear, pack, unpack
from dsparse.pattern.block_pattern import BlockPattern
from tests.pattern.reference import pattern_of, patterns

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def packed_of(pattern: BlockPattern, *, bias: bool = True, dtype: torch.dtype = torch.float64) -> PackedLinear:
    torch.manual_seed(0)
    linear = nn.Linear(pattern.shape[1], pattern.shape[0], bias=bias, dtype=dtype)
    return PackedLinear.from_linear(linear, pattern, kernel="reference")


def small_pattern(seed: int = 0, num_active: int = 3) -> BlockPattern:
    return BlockPattern.random_with_count((6, 8), block=2, num_active=num_active, seed=seed)


def bits(tensor: Tensor) -> Tensor:
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.contiguous().view(integer)


@given(patterns(max_side=3), st.booleans(), st.sampled_from([(), (1,), (3,), (2, 3), (0,), (2, 1, 3)]))
def test_equals_dense_times_mask(pattern: BlockPattern, bias: bool, batch: tuple[int, ...]) -> None:
    """Outputs and all gradients; float64, where only the order of additions shows."""
    torch.manual_seed(0)
    dense = nn.Linear(pattern.shape[1], pattern.shape[0], bias=bias, dtype=torch.float64)
    layer = PackedLinear.from_linear(copy.deepcopy(dense), pattern, kernel="reference")
    x = torch.randn(*batch, pattern.shape[1], dtype=torch.float64)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = layer(one), F.linear(other, dense.weight * pattern.mask(), dense.bias)
    assert y.shape == expected.shape
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-11)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy)
    assert layer.weight.grad is not None and dense.weight.grad is not None
    torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-11)
    torch.testing.assert_close(layer.weight.grad, pack(dense.weight.grad, pattern), rtol=0, atol=1e-11)
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, dense.bias.grad, rtol=0, atol=1e-11)


def test_takes_over_parameters_and_mode() -> None:
    linear = nn.Linear(8, 6).eval()
    weight, bias, values = linear.weight, linear.bias, linear.weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    bias.requires_grad_(False)
    layer = PackedLinear.from_linear(linear, small_pattern())
    assert layer.weight is weight and layer.bias is bias
    assert torch.equal(weight, pack(values, small_pattern()))
    assert weight.grad is None and not bias.requires_grad
    assert not layer.training and layer.train().training
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert list(packed_of(small_pattern(), bias=False).state_dict()) == ["weight"]


def test_prints() -> None:
    expected = "PackedLinear(in_features=8, out_features=6, bias=True, block=2, density=0.25)"
    assert repr(packed_of(small_pattern())) == expected
    assert packed_of(small_pattern()).backend_name() == "reference"


def through(write: Callable[[PackedLinear, io.BytesIO], None], read: Callable[[io.BytesIO], PackedLinear]) -> Callable:
    def copied(layer: PackedLinear) -> PackedLinear:
        file = io.BytesIO()
        write(layer, file)
        file.seek(0)
        return read(file)

    return copied


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        through(pickle.dump, pickle.load),
        through(torch.save, lambda file: torch.load(file, weights_only=False)),
    ],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies(copied: Callable[[PackedLinear], PackedLinear]) -> None:
    """A copy computes the same and stands for itself: its pattern changes alone."""
    layer = packed_of(small_pattern())
    other = copied(layer)
    x = torch.randn(3, 8, dtype=torch.float64)
    expected = layer(x)
    assert torch.equal(other(x), expected)
    assert other.holds(small_pattern()) and other.kernel == "reference"
    other.set_pattern(small_pattern(seed=1))
    assert layer.holds(small_pattern()) and not other.holds(small_pattern())
    assert torch.equal(layer(x), expected)


def test_state_dict_goes_into_a_layer_of_the_same_pattern() -> None:
    layer, other = packed_of(small_pattern()), packed_of(small_pattern())
    with torch.no_grad():
        layer.weight.mul_(2)
    other.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(other.weight, layer.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        packed_of(small_pattern(num_active=4)).load_state_dict(layer.state_dict())


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_dtype_leaves_the_orders(dtype: torch.dtype) -> None:
    layer = packed_of(small_pattern(), dtype=torch.float32).to(dtype)
    assert layer.weight.dtype == dtype and layer(torch.ones(2, 8, dtype=dtype)).dtype == dtype
    assert all(tensor.dtype == torch.int32 for tensor in layer.index)
    assert layer.holds(small_pattern())


def test_meta() -> None:
    there = packed_of(small_pattern(), dtype=torch.float32).to("meta")
    made = PackedLinear.from_linear(nn.Linear(8, 6, device="meta"), small_pattern(), kernel="reference")
    for layer in (there, made):
        assert all(tensor.is_meta for tensor in (layer.weight, *layer.index))
        assert layer(torch.ones(2, 3, 8, device="meta")).shape == (2, 3, 6)
    here = made.to_empty(device="cpu")
    here.set_pattern(small_pattern())
    here.load_state_dict(packed_of(small_pattern(), dtype=torch.float32).state_dict())
    assert torch.equal(here(torch.ones(2, 8)), packed_of(small_pattern(), dtype=torch.float32)(torch.ones(2, 8)))


@given(patterns(max_side=4), st.data())
def test_set_pattern_in_place_is_as_good_as_new(before: BlockPattern, data: st.DataObject) -> None:
    numbers = data.draw(st.permutations(range(before.num_blocks)))[: before.num_active]
    after = pattern_of(numbers, before.shape, before.block)
    before_numbers = before.block_numbers().tolist()
    layer = packed_of(before)
    pointers = [tensor.data_ptr() for tensor in layer.index]
    values = layer.weight.detach().clone()
    assert layer.holds(before)
    layer.set_pattern(after)
    assert [tensor.data_ptr() for tensor in layer.index] == pointers
    assert torch.equal(layer.weight, values)
    assert layer.holds(after)
    assert before.block_numbers().tolist() == before_numbers
    assert layer.holds(before) == (before_numbers == numbers)
    fresh = PackedLinear(layer.weight, layer.bias, after, kernel="reference")
    assert all(map(torch.equal, layer.index, BlockIndex.of(after)))
    x = torch.randn(3, before.shape[1], dtype=torch.float64)
    assert torch.equal(layer(x), fresh(x))
    assert torch.equal(layer.dense_weight(), fresh.dense_weight())


@pytest.mark.parametrize(
    "pattern",
    [
        BlockPattern.random_with_count((6, 8), block=2, num_active=1),  # would spread over all slots
        BlockPattern.random_with_count((6, 8), block=2, num_active=4),
        BlockPattern.random_with_count((8, 6), block=2, num_active=3),
        BlockPattern.random_with_count((6, 8), block=1, num_active=3),
    ],
)
def test_set_pattern_of_another_kind(pattern: BlockPattern) -> None:
    layer = packed_of(small_pattern())
    with pytest.raises(ValueError, match=r"Expected a pattern of \[6, 8\] with 3 blocks of side 2\. Got one of \["):
        layer.set_pattern(pattern)
    assert layer.holds(small_pattern())
    assert not layer.holds(pattern)


def test_a_pattern_set_between_forward_and_backward_is_noticed() -> None:
    layer = packed_of(small_pattern())
    y = layer(torch.randn(2, 8, dtype=torch.float64)).sum()
    layer.set_pattern(small_pattern(seed=1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bias", [False, True])
def test_autocast_follows_linear(bias: bool, dtype: torch.dtype, x_dtype: torch.dtype) -> None:
    """float64 stays, everything else becomes bfloat16, and what then still differs is an error."""
    dense = nn.Linear(8, 6, bias=bias, dtype=dtype)
    layer = packed_of(small_pattern(), bias=bias, dtype=dtype)
    x = torch.randn(3, 8, dtype=x_dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        if torch.float64 in (dtype, x_dtype) and dtype != x_dtype:
            for module, error in ((dense, RuntimeError), (layer, ValueError)):
                with pytest.raises(error, match="dtype"):
                    module(x)
            return
        y = layer(x)
        assert y.dtype == dense(x).dtype
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == x_dtype
    assert all(p.grad is not None and p.grad.dtype == dtype for p in layer.parameters())


@pytest.mark.parametrize("shape", [(2, 16), (3, 4), (0, 3), (16,)])
def test_inputs_of_another_width(shape: tuple[int, ...]) -> None:
    """Also where the numbers would fill whole rows."""
    with pytest.raises(ValueError, match=r"Expected x of \[tokens, 8\]\. Got \["):
        packed_of(small_pattern())(torch.ones(shape, dtype=torch.float64))


@given(patterns(max_side=4), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_pack_and_unpack_are_inverse(pattern: BlockPattern, dtype: torch.dtype, seed: int) -> None:
    """Bits are carried, whatever they mean: payloads of NaN, signs of zeros, subnormal numbers."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 256, (math.prod(pattern.shape) * size,), dtype=torch.uint8, generator=generator)
    weight = raw.view(dtype).view(pattern.shape)
    weight.view(-1)[0], weight.view(-1)[-1] = -0.0, torch.nan
    values = pack(weight, pattern)
    assert values.shape == (pattern.num_active, pattern.block, pattern.block)
    dense = unpack(values, pattern.rows, pattern.cols, pattern.shape)
    zeros = torch.zeros_like(bits(weight))
    assert torch.equal(bits(dense), torch.where(pattern.mask(), bits(weight), zeros))
    assert torch.equal(bits(pack(dense, pattern)), bits(values))


def test_dense_weight_is_differentiable() -> None:
    layer = packed_of(small_pattern())
    gradient = torch.randn(6, 8, dtype=torch.float64)
    layer.dense_weight().backward(gradient)
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, pack(gradient, small_pattern()))
