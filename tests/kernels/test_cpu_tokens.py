"""Small blocks: layers of several chunks, groups, tiles and shares of tokens, and patterns that fill few lines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsparse.kernels import cpu
from dsparse.kernels.index import BlockIndex
from dsparse.pattern.block_pattern import BlockPattern
from tests.kernels.patterns import random_case
from tests.kernels.test_cpu import check
from tests.kernels.test_cpu_bits import bits

# Blocks, grid and density: wide and tall layers, whose weight gradients go by columns and by rows, more lines than one
# group has, and at the least densities chunks that are measured for L2.
LAYERS = (
    (1, (900, 130), 0.1),
    (1, (130, 900), 0.1),
    (1, (900, 130), 0.004),
    (1, (130, 900), 0.004),
    (1, (70, 90), 0.9),
    (2, (420, 60), 0.1),
    (3, (60, 100), 0.1),
    (4, (230, 40), 0.1),
    (4, (40, 230), 0.01),
)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize(("block", "grid", "density"), LAYERS, ids=str)
def test_chunks_groups_and_shares(
    best_isa: str, block: int, grid: tuple[int, int], density: float, dtype: torch.dtype
) -> None:
    check(random_case(block, grid, 601, dtype, density=density), gelu=True)


@pytest.mark.usefixtures("torch_threads")
@pytest.mark.parametrize(("block", "grid", "density"), LAYERS, ids=str)
def test_any_number_of_threads_over_many_shares(
    best_isa: str, block: int, grid: tuple[int, int], density: float
) -> None:
    case = random_case(block, grid, 1103, torch.float32, density=density)
    torch.set_num_threads(1)
    alone = bits(case)
    for num_threads in (2, 3, 4):
        torch.set_num_threads(num_threads)
        assert bits(case) == alone, num_threads


@pytest.mark.parametrize("block", (1, 2, 3, 4))
@pytest.mark.parametrize("along_row", (True, False))
def test_all_blocks_in_one_line(isa: str, block: int, along_row: bool) -> None:
    num, line = 150, 7
    case = random_case(block, (num, num), 70, torch.float32, density=0.0)
    all_N, same_N = torch.arange(num, dtype=torch.int32), torch.full((num,), line, dtype=torch.int32)
    rows_S, cols_S = (same_N, all_N) if along_row else (all_N, same_N)
    pattern = BlockPattern(rows_S, cols_S, shape=(num * block, num * block), block=block)
    case = case._replace(index=BlockIndex.of(pattern), values_Sbb=torch.randn(num, block, block))
    check(case, gelu=False)
    others = torch.arange(num * block) // block != line
    if along_row:
        y_TO, _ = cpu.forward(case.x_TI, case.values_Sbb, case.bias_O, case.index)
        assert torch.equal(y_TO[:, others], case.bias_O[others].expand(70, -1))
    else:
        assert not cpu.input_gradient(case.dy_TO, case.values_Sbb, case.index)[:, others].any()


@settings(max_examples=100)
@given(
    block=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    num_tokens=st.integers(1, 700),
    density=st.floats(0, 1),
    dtype=st.sampled_from((torch.float32, torch.bfloat16)),
    gelu=st.booleans(),
    seed=st.integers(0, 2**32 - 2),
)
def test_any_small_block(
    block: int, grid: tuple[int, int], num_tokens: int, density: float, dtype: torch.dtype, gelu: bool, seed: int
) -> None:
    if not cpu.is_available()[0]:
        pytest.skip(cpu.is_available()[1])
    check(random_case(block, grid, num_tokens, dtype, density=density, seed=seed), gelu=gelu)
