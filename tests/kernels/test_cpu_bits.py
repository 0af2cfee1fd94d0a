"""The same inputs give the same bits, whatever the number of threads and however often."""

from __future__ import annotations

import pytest
import torch

from dsparse.kernels import cpu
from tests.kernels.patterns import Case, random_case


def bits(case: Case) -> list[bytes]:
    y_TO, pre_TO = cpu.forward(case.x_TI, case.values_Sbb, case.bias_O, case.index, gelu=True)
    plain_TO, _ = cpu.forward(case.x_TI, case.values_Sbb, case.bias_O, case.index)
    dx_TI = cpu.input_gradient(case.dy_TO, case.values_Sbb, case.index)
    gradients = cpu.weight_gradient(case.dy_TO, case.x_TI, case.index, case.block, with_bias=True)
    tensors = (y_TO, pre_TO, plain_TO, dx_TI, *gradients)
    return [tensor.view(torch.uint8).numpy().tobytes() for tensor in tensors if tensor is not None]


@pytest.mark.usefixtures("torch_threads")
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("block", (1, 2, 4, 5, 8, 16, 64))
@pytest.mark.parametrize("num_tokens", (11, 777, 2300))
def test_any_number_of_threads(isa: str, block: int, dtype: torch.dtype, num_tokens: int) -> None:
    case = random_case(block, (192 // block, 320 // block), num_tokens, dtype, density=0.15)
    torch.set_num_threads(1)
    alone = bits(case)
    for num_threads in (1, 2, 3, 4, 7):
        torch.set_num_threads(num_threads)
        assert bits(case) == alone, num_threads


@pytest.mark.parametrize("block", (1, 4, 8, 16, 64))
def test_a_call_leaves_nothing_for_the_next(best_isa: str, block: int) -> None:
    """Scratch memory is kept between calls: larger and other layers in between change nothing."""
    case = random_case(block, (128 // block, 192 // block), 97, torch.float32, density=0.2)
    first = bits(case)
    not_finite = random_case(block, (320 // block, 256 // block), 333, torch.bfloat16, density=0.9, seed=5)
    not_finite.x_TI.fill_(torch.nan)
    not_finite.dy_TO.fill_(torch.inf)
    bits(not_finite)
    assert bits(case) == first


@pytest.mark.parametrize("block", (1, 4, 8, 16, 64))
def test_a_token_does_not_depend_on_the_others(isa: str, block: int) -> None:
    """Nor on where in a tile it lies, so a batch may be cut anywhere."""
    case = random_case(block, (128 // block, 192 // block), 200, torch.float32, density=0.2)
    whole, _ = cpu.forward(case.x_TI, case.values_Sbb, case.bias_O, case.index)
    for begin, end in ((0, 1), (7, 19), (100, 200)):
        part, _ = cpu.forward(case.x_TI[begin:end], case.values_Sbb, case.bias_O, case.index)
        assert torch.equal(part, whole[begin:end])
