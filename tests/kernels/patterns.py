"""Random patterns for tests of kernels, and how far a sum in float32 may lie from the true one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dsparse.kernels import reference
from dsparse.kernels.index import BlockIndex
from dsparse.pattern.block_pattern import BlockPattern

FLOAT32_ROUNDING = 2.0**-24
# The last rounding, of a result to its dtype, relative to it.
RESULT_ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


class Case(NamedTuple):
    """One layer's tensors."""

    x_TI: Tensor
    dy_TO: Tensor
    values_Sbb: Tensor
    bias_O: Tensor
    index: BlockIndex
    block: int

    def double(self) -> Case:
        """The same numbers in float64."""
        return self._replace(
            x_TI=self.x_TI.double(),
            dy_TO=self.dy_TO.double(),
            values_Sbb=self.values_Sbb.double(),
            bias_O=self.bias_O.double(),
        )

    def magnitudes(self) -> Case:
        """The absolute values in float64."""
        case = self.double()
        return case._replace(
            x_TI=case.x_TI.abs(),
            dy_TO=case.dy_TO.abs(),
            values_Sbb=case.values_Sbb.abs(),
            bias_O=case.bias_O.abs(),
        )


def random_index(grid: tuple[int, int], density: float, seed: int) -> BlockIndex:
    """Blocks drawn one by one, so some rows and columns are empty, and slots in no order."""
    generator = torch.Generator().manual_seed(seed)
    active_RC = torch.rand(grid, generator=generator) < density
    positions_S2 = active_RC.nonzero()
    positions_S2 = positions_S2[torch.randperm(len(positions_S2), generator=generator)]
    rows_S, cols_S = positions_S2.to(torch.int32).T.contiguous()
    # An index knows the grid and not the side of a block.
    return BlockIndex.of(BlockPattern(rows=rows_S, cols=cols_S, shape=grid, block=1))


def random_case(
    block: int,
    grid: tuple[int, int],
    num_tokens: int,
    dtype: torch.dtype,
    *,
    density: float = 0.4,
    seed: int = 0,
) -> Case:
    """A layer of random numbers on a random pattern."""
    index = random_index(grid, density, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    num_out, num_in = grid[0] * block, grid[1] * block
    shapes = ((num_tokens, num_in), (num_tokens, num_out), (index.rows_S.numel(), block, block), (num_out,))
    x_TI, dy_TO, values_Sbb, bias_O = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return Case(x_TI, dy_TO, values_Sbb, bias_O, index, block)


def true_products(case: Case, *, gelu: bool = False) -> dict[str, Tensor]:
    """All that the kernels compute, by the reference in float64."""
    exact = case.double()
    y_TO, pre_TO = reference.forward(exact.x_TI, exact.values_Sbb, exact.bias_O, case.index, gelu=gelu)
    dvalues_Sbb, dbias_O = reference.weight_gradient(exact.dy_TO, exact.x_TI, case.index, case.block, with_bias=True)
    dx_TI = reference.input_gradient(exact.dy_TO, exact.values_Sbb, case.index)
    assert dbias_O is not None
    found = {"y": y_TO, "dx": dx_TI, "dvalues": dvalues_Sbb, "dbias": dbias_O}
    return found if pre_TO is None else {**found, "pre": pre_TO}


def largest_errors(case: Case, *, gelu: bool = False) -> dict[str, Tensor]:
    """How far each product, computed in float32 in any order, may lie from the true one.

    A sum of n products is off by at most n roundings of the sum of their magnitudes (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1). On top comes one rounding of the result to its dtype.
    """
    sums = true_products(case.magnitudes())
    longest_row = int(case.index.row_offsets.diff().max()) * case.block + 1
    longest_col = int(case.index.col_offsets.diff().max()) * case.block
    num_tokens = case.x_TI.shape[0]
    terms = {"y": longest_row, "dx": longest_col, "dvalues": num_tokens, "dbias": num_tokens}
    errors = {name: (terms[name] + 1) * FLOAT32_ROUNDING * sums[name] for name in sums}
    if gelu:
        # GELU rises by at most 1.13 per unit, and is computed to a few roundings of its argument.
        errors["pre"] = errors["y"]
        errors["y"] = 1.13 * errors["y"] + 16 * FLOAT32_ROUNDING * sums["y"]
    true = true_products(case, gelu=gelu)
    # The smallest normal float32: below it results lose digits.
    return {name: errors[name] + RESULT_ROUNDING[case.x_TI.dtype] * true[name].abs() + 2.0**-126 for name in errors}
