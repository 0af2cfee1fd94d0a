"""Products with a packed weight, as torch ops: autograd, `torch.compile`, FLOP counters and profilers see them.

Three ops, each the derivative of the others, for y = x Wᵀ + bias:

    block_linear               (x, W, bias) -> y
    block_linear_input_grad    (dy, W)      -> dx = dy W
    block_linear_weight_grad   (dy, x)      -> dW = dyᵀ x at active blocks, and dy summed over tokens

so gradients of any order need nothing else. `block_linear_gelu` is the first with GELU behind it, which saves a pass
over the outputs. The products are a backend's; see `backend`.

The ops are defined by schema and not by `torch.library.custom_op`, whose wrappers take as long again per call: small
models feel it.

Shape legend: T tokens, O out features, I in features, S slots, b block side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dsparse.kernels.backend import find_backend
from dsparse.kernels.index import BlockIndex

_Function = TypeVar("_Function", bound=Callable[..., Any])

_LIBRARY = torch.library.Library("dsparse", "FRAGMENT")


def _op(schema: str) -> Callable[[_Function], _Function]:
    """Makes of a function of tensors without gradients the op of its name, on every device."""

    def define(function: _Function) -> _Function:
        _LIBRARY.define(function.__name__ + schema, tags=torch.Tag.pt2_compliant_tag)
        _LIBRARY.impl(function.__name__, function, "CompositeExplicitAutograd")
        return getattr(torch.ops.dsparse, function.__name__).default

    return define


@_op("(Tensor x, Tensor values, Tensor? bias, Tensor[] index, str kernel) -> Tensor")
def block_linear(x: Tensor, values: Tensor, bias: Tensor | None, index: Sequence[Tensor], kernel: str) -> Tensor:
    """y = x Wᵀ + bias.

    Args:
        x: [T, I] floating point.
        values: [S, b, b], active blocks of W by slot; dtype and device of x.
        bias: [O] or None.
        index: a `BlockIndex`, on the same device.
        kernel: "auto" or the name of a backend.

    Returns:
        [T, O].
    """
    blocks = BlockIndex(*index)
    _check(x, values, bias, blocks)
    with _as_given(x):
        return _backend(x, values, kernel).forward(x.contiguous(), values.contiguous(), _dense(bias), blocks)[0]


@_op("(Tensor x, Tensor values, Tensor? bias, Tensor[] index, str kernel) -> (Tensor, Tensor)")
def block_linear_gelu(
    x: Tensor, values: Tensor, bias: Tensor | None, index: Sequence[Tensor], kernel: str
) -> tuple[Tensor, Tensor]:
    """(GELU(y), y) of y = x Wᵀ + bias, both [T, O]; arguments as of `block_linear`. GELU is the exact one, by erf."""
    blocks = BlockIndex(*index)
    _check(x, values, bias, blocks)
    with _as_given(x):
        return _backend(x, values, kernel).forward(x.contiguous(), values.contiguous(), _dense(bias), blocks, gelu=True)


@_op("(Tensor dy, Tensor values, Tensor[] index, str kernel) -> Tensor")
def block_linear_input_grad(dy: Tensor, values: Tensor, index: Sequence[Tensor], kernel: str) -> Tensor:
    """dx = dy W, [T, I], of dy [T, O]; other arguments as of `block_linear`."""
    blocks = BlockIndex(*index)
    _check_product(dy, values, blocks, num_blocks=blocks.grid[0], what="dy")
    with _as_given(dy):
        return _backend(dy, values, kernel).input_gradient(dy.contiguous(), values.contiguous(), blocks)


@_op("(Tensor dy, Tensor x, Tensor[] index, bool with_bias, str kernel) -> (Tensor, Tensor)")
def block_linear_weight_grad(
    dy: Tensor, x: Tensor, index: Sequence[Tensor], with_bias: bool, kernel: str
) -> tuple[Tensor, Tensor]:
    """(dW at active blocks [S, b, b], dy summed over tokens [O], or [0] without `with_bias`).

    Args:
        dy: [T, O].
        x: [T, I], dtype and device of dy.
        index: a `BlockIndex`, on the same device.
        with_bias: whether the second result is wanted.
        kernel: "auto" or the name of a backend.
    """
    blocks = BlockIndex(*index)
    block = _block_of(dy, x, blocks)
    backend = find_backend(kernel, x.device.type, block, x.dtype)
    with _as_given(x):
        dvalues, dbias = backend.weight_gradient(dy.contiguous(), x.contiguous(), blocks, block, with_bias=with_bias)
    return dvalues, dy.new_empty(0) if dbias is None else dbias


def _backend(x: Tensor, values: Tensor, kernel: str) -> Any:
    return find_backend(kernel, x.device.type, values.shape[-1], x.dtype)


def _dense(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.contiguous()


def _as_given(x: Tensor) -> AbstractContextManager[Any]:
    """Autocast ends where an op begins: a backend computes in the dtype of its tensors, whatever it computes with."""
    is_on = torch.is_autocast_enabled(x.device.type)
    return torch.autocast(x.device.type, enabled=False) if is_on else nullcontext()


def _check(x: Tensor, values: Tensor, bias: Tensor | None, index: BlockIndex) -> None:
    _check_product(x, values, index, num_blocks=index.grid[1], what="x")
    num_out = index.grid[0] * values.shape[-1]
    if bias is not None and (bias.shape != (num_out,) or bias.dtype != x.dtype or bias.device != x.device):
        raise ValueError(
            f"Expected a bias of [{num_out}], {x.dtype} on {x.device}. Got {list(bias.shape)}, {bias.dtype} on "
            f"{bias.device}."
        )


def _check_product(x: Tensor, values: Tensor, index: BlockIndex, *, num_blocks: int, what: str) -> None:
    num_slots, block = index.rows_S.numel(), values.shape[-1]
    if values.dim() != 3 or values.shape[1] != block or values.shape[0] != num_slots:
        raise ValueError(f"Expected values of [{num_slots}, b, b]. Got {list(values.shape)}.")
    if x.dim() != 2 or x.shape[1] != num_blocks * block:
        raise ValueError(f"Expected {what} of [tokens, {num_blocks * block}]. Got {list(x.shape)}.")
    if x.dtype != values.dtype or x.device != values.device or index.rows_S.device != x.device:
        raise ValueError(
            f"Expected {what}, values and index of one device, {what} and values of one dtype. Got {x.dtype} on "
            f"{x.device}, {values.dtype} on {values.device}, index on {index.rows_S.device}."
        )


def _block_of(dy: Tensor, x: Tensor, index: BlockIndex) -> int:
    """The block side that fits both tensors to the index."""
    num_rows, num_cols = index.grid
    block = x.shape[-1] // num_cols
    is_right = dy.dim() == x.dim() == 2 and dy.shape[0] == x.shape[0] and x.shape[1] == num_cols * block
    if not is_right or dy.shape[1] != num_rows * block:
        raise ValueError(
            f"Expected dy and x of [tokens, {num_rows} b] and [tokens, {num_cols} b]. "
            f"Got {list(dy.shape)} and {list(x.shape)}."
        )
    if x.dtype != dy.dtype or x.device != dy.device or index.rows_S.device != x.device:
        raise ValueError(
            f"Expected dy, x and index of one device, dy and x of one dtype. Got {dy.dtype} on {dy.device}, {x.dtype} "
            f"on {x.device}, index on {index.rows_S.device}."
        )
    return block


# Shapes and dtypes alone, for torch.compile and meta tensors. They check as well: a call with one tensor of several on
# "meta" comes here, and what it returned would be memory that nobody wrote.


@torch.library.register_fake("dsparse::block_linear")
def _(x: Tensor, values: Tensor, bias: Tensor | None, index: Sequence[Tensor], kernel: str) -> Tensor:
    blocks = BlockIndex(*index)
    _check(x, values, bias, blocks)
    return x.new_empty(x.shape[0], blocks.grid[0] * values.shape[-1])


@torch.library.register_fake("dsparse::block_linear_gelu")
def _(x: Tensor, values: Tensor, bias: Tensor | None, index: Sequence[Tensor], kernel: str) -> tuple[Tensor, Tensor]:
    blocks = BlockIndex(*index)
    _check(x, values, bias, blocks)
    shape = x.shape[0], blocks.grid[0] * values.shape[-1]
    return x.new_empty(shape), x.new_empty(shape)


@torch.library.register_fake("dsparse::block_linear_input_grad")
def _(dy: Tensor, values: Tensor, index: Sequence[Tensor], kernel: str) -> Tensor:
    blocks = BlockIndex(*index)
    _check_product(dy, values, blocks, num_blocks=blocks.grid[0], what="dy")
    return dy.new_empty(dy.shape[0], blocks.grid[1] * values.shape[-1])


@torch.library.register_fake("dsparse::block_linear_weight_grad")
def _(dy: Tensor, x: Tensor, index: Sequence[Tensor], with_bias: bool, kernel: str) -> tuple[Tensor, Tensor]:
    block = _block_of(dy, x, BlockIndex(*index))
    return x.new_empty(index[0].shape[0], block, block), dy.new_empty(dy.shape[1] if with_bias else 0)


# Derivatives.


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, values, bias, index, kernel = inputs
    ctx.has_bias, ctx.kernel = bias is not None, kernel
    ctx.save_for_backward(x, values, *index)


def _linear_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, values, *index = ctx.saved_tensors
    return _gradients(ctx, dy, x, values, index)


def _gradients(ctx: Any, dy: Tensor, x: Tensor, values: Tensor, index: list[Tensor]) -> tuple[Any, ...]:
    wants_x, wants_values, wants_bias = ctx.needs_input_grad[:3]
    dx = block_linear_input_grad(dy, values, index, ctx.kernel) if wants_x else None
    dvalues = dbias = None
    if wants_values:
        dvalues, dbias = block_linear_weight_grad(dy, x, index, ctx.has_bias and wants_bias, ctx.kernel)
    elif wants_bias:
        dbias = dy.sum(0)
    return dx, dvalues, dbias if wants_bias else None, None, None


def _keep_gelu(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, values, bias, index, kernel = inputs
    ctx.has_bias, ctx.kernel = bias is not None, kernel
    ctx.set_materialize_grads(False)  # mostly y has none, and zeros for it are a pass over the outputs
    ctx.save_for_backward(x, values, output[1], *index)


def _gelu_backward(ctx: Any, dgelu: Tensor | None, dy: Tensor | None) -> tuple[Any, ...]:
    x, values, y, *index = ctx.saved_tensors
    if dgelu is not None:
        through = torch.ops.aten.gelu_backward(dgelu, y)
        dy = through if dy is None else through + dy
    if dy is None:
        return None, None, None, None, None
    return _gradients(ctx, dy, x, values, index)


def _keep_input_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, values, index, ctx.kernel = inputs
    ctx.save_for_backward(dy, values, *index)


def _input_grad_backward(ctx: Any, ddx: Tensor) -> tuple[Any, ...]:
    dy, values, *index = ctx.saved_tensors
    wants_dy, wants_values = ctx.needs_input_grad[:2]
    ddy = block_linear(ddx, values, None, index, ctx.kernel) if wants_dy else None
    dvalues = block_linear_weight_grad(dy, ddx, index, False, ctx.kernel)[0] if wants_values else None
    return ddy, dvalues, None, None


def _keep_weight_grad(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    dy, x, index, ctx.with_bias, ctx.kernel = inputs
    ctx.save_for_backward(dy, x, *index)


def _weight_grad_backward(ctx: Any, ddvalues: Tensor, ddbias: Tensor) -> tuple[Any, ...]:
    dy, x, *index = ctx.saved_tensors
    wants_dy, wants_x = ctx.needs_input_grad[:2]
    bias = ddbias if ctx.with_bias else None
    ddy = block_linear(x, ddvalues, bias, index, ctx.kernel) if wants_dy else None
    dx = block_linear_input_grad(dy, ddvalues, index, ctx.kernel) if wants_x else None
    return ddy, dx, None, None, None


def _differentiate(name: str, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """Gives an op its derivative."""
    op = getattr(torch.ops.dsparse, name).default

    def forward(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    functions = {"forward": forward, "backward": backward, "setup_context": setup_context}
    members = {key: staticmethod(function) for key, function in functions.items()}
    derivative: Any = type(name, (torch.autograd.Function,), members)

    def apply(*args: Any) -> Any:
        # In a backward as a rule nothing is to be differentiated again.
        return derivative.apply(*args) if torch.is_grad_enabled() else forward(*args)

    _LIBRARY.impl(name, apply, "Autograd")


_differentiate("block_linear", _linear_backward, _keep_linear)
_differentiate("block_linear_gelu", _gelu_backward, _keep_gelu)
_differentiate("block_linear_input_grad", _input_grad_backward, _keep_input_grad)
_differentiate("block_linear_weight_grad", _weight_grad_backward, _keep_weight_grad)


# FLOPs: two per token and active weight.


@register_flop_formula([torch.ops.dsparse.block_linear, torch.ops.dsparse.block_linear_gelu])
def _(x_shape: Sequence[int], values_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * x_shape[0] * values_shape[0] * values_shape[1] * values_shape[2]


@register_flop_formula(torch.ops.dsparse.block_linear_input_grad)
def _(dy_shape: Sequence[int], values_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * dy_shape[0] * values_shape[0] * values_shape[1] * values_shape[2]


@register_flop_formula(torch.ops.dsparse.block_linear_weight_grad)
def _(dy_shape: Sequence[int], *args: Any, out_shape: Sequence[Sequence[int]], **kwargs: Any) -> int:
    num_slots, block, _ = out_shape[0]
    return 2 * dy_shape[0] * num_slots * block * block
