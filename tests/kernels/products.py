"""Products with a packed weight to try, and the same by dense algebra."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dsparse.kernels.index import BlockIndex
from dsparse.layout.packed import unpack
from dsparse.pattern.block_pattern import BlockPattern


@dataclass(frozen=True)
class Product:
    """Arguments of y = x Wᵀ + bias, and a gradient to come back."""

    pattern: BlockPattern
    index: BlockIndex
    x: Tensor
    values: Tensor
    bias: Tensor
    dy: Tensor

    def dense(self) -> Tensor:
        return unpack(self.values, self.pattern.rows, self.pattern.cols, self.pattern.shape)

    def wants_grad(self, *, x: bool = True, values: bool = True, bias: bool = True) -> Product:
        for tensor, wants in ((self.x, x), (self.values, values), (self.bias, bias)):
            tensor.requires_grad_(wants)
        return self


def shuffled(pattern: BlockPattern, seed: int = 0) -> BlockPattern:
    """The same set of blocks in other slots."""
    order = torch.randperm(pattern.num_active, generator=torch.Generator().manual_seed(seed))
    return BlockPattern(pattern.rows[order], pattern.cols[order], pattern.shape, pattern.block)


def product_of(pattern: BlockPattern, *, tokens: int = 5, dtype: torch.dtype = torch.float32, seed: int = 0) -> Product:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    num_out, num_in = pattern.shape
    return Product(
        pattern=pattern,
        index=BlockIndex.of(pattern),
        x=draw(tokens, num_in),
        values=draw(pattern.num_active, pattern.block, pattern.block),
        bias=draw(num_out),
        dy=draw(tokens, num_out),
    )


def small_product(*, block: int = 2, tokens: int = 5, dtype: torch.dtype = torch.float32, seed: int = 0) -> Product:
    """Three block rows by four block columns, half of the blocks, in no order of slots."""
    pattern = BlockPattern.random((3 * block, 4 * block), block=block, density=0.5, seed=seed)
    return product_of(shuffled(pattern, seed), tokens=tokens, dtype=dtype, seed=seed)


def dense_linear(product: Product, *, bias: bool = True) -> Tensor:
    return F.linear(product.x, product.dense(), product.bias if bias else None)
