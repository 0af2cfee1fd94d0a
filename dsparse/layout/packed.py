"""The packed layout: the parameter *is* its active blocks, so that memory, traffic and arithmetic follow the density.

Values are stored by slot, [S, b, b]. How many slots there are never changes, so ZeRO's partitions, Adam's moments,
gradients and checkpoints shrink to the density without knowing why. An update gives some slots other blocks and zeroes
what they held; nothing moves, and the orders that kernels walk are derived anew.

Shape legend: T tokens, O out features, I in features, S slots, b block side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsparse.errors import UserError
from dsparse.kernels.backend import Kernel, find_backend
from dsparse.kernels.index import BlockIndex
from dsparse.kernels.ops import block_linear
from dsparse.pattern.block_pattern import BlockPattern

_MAX_VALUES = 2**31 - 1
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class PackedLinear(nn.Module):
    """A linear layer of which only the active blocks exist; stands where an `nn.Linear` stood.

    `weight` is [S, b, b] and `bias` [O]. The pattern is not in the state dict: whoever changes patterns keeps them.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter | None, pattern: BlockPattern, *, kernel: Kernel = "auto"
    ) -> None:
        super().__init__()
        _check_count(pattern)
        self.out_features, self.in_features = pattern.shape
        self.block = pattern.block
        self.kernel: Kernel = kernel
        self.weight = weight
        self.bias = bias
        # Orders cannot be computed on "meta", only be there.
        index = BlockIndex.of(pattern if weight.is_meta else pattern.to(weight.device))
        for name, tensor in index._asdict().items():
            self.register_buffer(name, tensor.to(weight.device), persistent=False)

    @classmethod
    def from_linear(cls, linear: nn.Linear, pattern: BlockPattern, *, kernel: Kernel = "auto") -> PackedLinear:
        """The packed form of a layer: its values at the active blocks, its bias, and its parameters' identity.

        The layer's own `weight` parameter is taken over and holds [S, b, b] from now on, so that optimizers and
        parameter groups made before keep what they have. The layer itself is of no use any more.

        Raises:
            UserError: it is not a plain `nn.Linear` of the pattern's shape, or has hooks, which would be lost.
        """
        check_packable(linear)
        check_fits(linear, pattern)
        weight = linear.weight
        assert isinstance(weight, nn.Parameter)
        hold_values(weight, pack(weight.data, pattern.to(weight.device)))
        return cls(weight, linear.bias, pattern, kernel=kernel).train(linear.training)

    @property
    def index(self) -> BlockIndex:
        """The orders in force."""
        return BlockIndex(*(getattr(self, name) for name in BlockIndex._fields))

    @torch.no_grad()
    def set_pattern(self, pattern: BlockPattern) -> None:
        """Puts another pattern of as many blocks in force, from the next forward on; values stay in their slots."""
        shape, num_slots = (self.out_features, self.in_features), self.index.rows_S.numel()
        if (pattern.shape, pattern.block, pattern.num_active) != (shape, self.block, num_slots):
            raise ValueError(
                f"Expected a pattern of {list(shape)} with {num_slots} blocks of side {self.block}. "
                f"Got one of {list(pattern.shape)} with {pattern.num_active} of side {pattern.block}."
            )
        new = BlockIndex.of(pattern.to(self.index.rows_S.device))
        for now, then in zip(self.index, new, strict=True):
            now.copy_(then)

    def holds(self, pattern: BlockPattern) -> bool:
        """Whether the orders in force are exactly those of the pattern."""
        return self.index.is_of(pattern.to(self.index.rows_S.device))

    def dense_weight(self) -> Tensor:
        """[O, I], zero at inactive blocks; differentiable."""
        return unpack(self.weight, self.index.rows_S, self.index.cols_S, (self.out_features, self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """[…, I] to […, O]."""
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = _autocast(x, dtype), _autocast(weight, dtype)
            bias = None if bias is None else _autocast(bias, dtype)
        x_TI = x.reshape(-1, x.shape[-1])
        y_TO = block_linear(x_TI, weight, bias, self.index, self.kernel)
        return y_TO.view(*x.shape[:-1], self.out_features)

    def backend_name(self) -> str:
        """Of the kernels that compute this layer as it is now, with their instruction set where they have several.

        Raises:
            UserError: the kernel asked for by name cannot.
        """
        backend = find_backend(self.kernel, self.weight.device.type, self.block, self.weight.dtype)
        variant = backend.is_available()[1]
        return f"{backend.NAME} ({variant})" if variant else backend.NAME

    def extra_repr(self) -> str:
        """For `print(model)`."""
        num_blocks = (self.out_features // self.block) * (self.in_features // self.block)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"block={self.block}, density={self.index.rows_S.numel() / num_blocks:.4g}"
        )


def check_packable(linear: nn.Linear) -> None:
    """Raises a UserError unless a layer can be packed by some pattern; see `PackedLinear.from_linear`."""
    if type(linear) is not nn.Linear:
        raise UserError(f"Expected an nn.Linear itself for the packed layout. Got {type(linear).__qualname__}.")
    has_hooks = any(getattr(linear, hooks) for hooks in _HOOKS) or linear.weight._backward_hooks
    if has_hooks or "forward" in vars(linear):
        raise UserError("Expected an nn.Linear without hooks for the packed layout. Got some; add them later.")


def check_fits(linear: nn.Linear, pattern: BlockPattern) -> None:
    """Raises a UserError unless a pattern is of a layer's shape, and not of too many values."""
    if tuple(linear.weight.shape) != pattern.shape:
        raise UserError(f"Expected a pattern of {list(linear.weight.shape)}. Got one of {list(pattern.shape)}.")
    _check_count(pattern)


def _check_count(pattern: BlockPattern) -> None:
    num_values = pattern.num_active * pattern.block**2
    if num_values > _MAX_VALUES:
        raise UserError(f"Expected at most {_MAX_VALUES} active values in one weight. Got {num_values}.")


def hold_values(weight: nn.Parameter, values: Tensor) -> None:
    """Has a parameter hold other values, of another shape, and no gradient."""
    # While a graph of before is alive, say that of the last loss, autograd expects gradients of the shape of before.
    # Another dtype in between makes it begin anew.
    other = torch.float32 if values.dtype == torch.float64 else torch.float64
    weight.data = torch.empty(0, dtype=other, device=values.device)
    weight.data, weight.grad = values, None


def pack(weight_OI: Tensor, pattern: BlockPattern) -> Tensor:
    """The values of a dense weight at the pattern's active blocks, [S, b, b], by slot."""
    block, (num_rows, num_cols) = pattern.block, pattern.grid
    blocks_RbCb = weight_OI.reshape(num_rows, block, num_cols, block)
    return blocks_RbCb[pattern.rows.to(torch.int64), :, pattern.cols.to(torch.int64)]


def unpack(values_Sbb: Tensor, rows_S: Tensor, cols_S: Tensor, shape: tuple[int, int]) -> Tensor:
    """The dense weight [O, I] of packed values: zero at inactive blocks. Differentiable in the values."""
    block = values_Sbb.shape[-1]
    num_rows, num_cols = shape[0] // block, shape[1] // block
    numbers_S = rows_S.to(torch.int64) * num_cols + cols_S
    blocks_Nbb = values_Sbb.new_zeros(num_rows * num_cols, block, block).index_copy(0, numbers_S, values_Sbb)
    return blocks_Nbb.view(num_rows, num_cols, block, block).permute(0, 2, 1, 3).reshape(shape)


def _autocast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What autocast makes of an argument of `nn.Linear`: float64 and integers stay."""
    return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
