"""The CPU backend against float64 truth: every product, block side, dtype and instruction set."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dsparse.kernels import cpu
from tests.kernels.patterns import Case, largest_errors, random_case, random_index, true_products

BLOCKS = (1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 64, 100, 128)
DTYPES = (torch.float32, torch.bfloat16)


def computed(case: Case, *, gelu: bool) -> dict[str, torch.Tensor]:
    y_TO, pre_TO = cpu.forward(case.x_TI, case.values_Sbb, case.bias_O, case.index, gelu=gelu)
    dx_TI = cpu.input_gradient(case.dy_TO, case.values_Sbb, case.index)
    dvalues_Sbb, dbias_O = cpu.weight_gradient(case.dy_TO, case.x_TI, case.index, case.block, with_bias=True)
    assert dbias_O is not None and (pre_TO is None) != gelu
    found = {"y": y_TO, "dx": dx_TI, "dvalues": dvalues_Sbb, "dbias": dbias_O}
    return found if pre_TO is None else {**found, "pre": pre_TO}


def check(case: Case, *, gelu: bool) -> None:
    found, true, errors = computed(case, gelu=gelu), true_products(case, gelu=gelu), largest_errors(case, gelu=gelu)
    assert found.keys() == true.keys()
    for name, tensor in found.items():
        assert tensor.dtype == case.x_TI.dtype and tensor.shape == true[name].shape, name
        too_far = (tensor.double() - true[name]).abs() > errors[name]
        assert not too_far.any(), f"{name}: {int(too_far.sum())} of {tensor.numel()} are off"
        assert not tensor.isnan().any(), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_all_products(isa: str, block: int, dtype: torch.dtype) -> None:
    for num_tokens, grid in ((1, (5, 7)), (53, (7, 4)), (200, (3, 6))):
        case = random_case(block, grid, num_tokens, dtype, seed=block)
        check(case, gelu=num_tokens == 53)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", (1, 4, 8, 16, 64))
@pytest.mark.parametrize("num_tokens", (611, 2301))
def test_many_tokens_and_wide_layers(isa: str, block: int, num_tokens: int, dtype: torch.dtype) -> None:
    """The larger number of tokens is enough for every span of a weight gradient (csrc/spans.h), none as long."""
    check(random_case(block, (512 // block, 320 // block), num_tokens, dtype, density=0.1), gelu=True)


@settings(max_examples=150)
@given(
    block=st.one_of(st.sampled_from((1, 2, 4, 8, 16, 32)), st.integers(1, 40)),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    num_tokens=st.integers(1, 130),
    density=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
    gelu=st.booleans(),
    seed=st.integers(0, 2**32 - 2),
)
def test_any_shape(
    block: int, grid: tuple[int, int], num_tokens: int, density: float, dtype: torch.dtype, gelu: bool, seed: int
) -> None:
    if not cpu.is_available()[0]:
        pytest.skip(cpu.is_available()[1])
    check(random_case(block, grid, num_tokens, dtype, density=density, seed=seed), gelu=gelu)


@pytest.mark.parametrize("block", (1, 4, 8, 12, 16, 64))
def test_no_tokens(isa: str, block: int) -> None:
    case = random_case(block, (3, 4), 0, torch.float32)
    found = computed(case, gelu=True)
    assert found["y"].shape == found["pre"].shape == (0, 3 * block) and found["dx"].shape == (0, 4 * block)
    assert found["dvalues"].shape == case.values_Sbb.shape
    assert not found["dvalues"].any() and not found["dbias"].any()


@pytest.mark.parametrize("block", (1, 4, 8, 12, 16, 64))
def test_no_blocks(isa: str, block: int) -> None:
    case = random_case(block, (3, 4), 30, torch.float32, density=0.0)
    found = computed(case, gelu=False)
    assert torch.equal(found["y"], case.bias_O.expand(30, -1)) and not found["dx"].any()
    assert found["dvalues"].shape == (0, block, block)
    torch.testing.assert_close(found["dbias"], case.dy_TO.sum(0))


@pytest.mark.parametrize("block", (1, 4, 8, 12, 16, 64))
def test_without_bias(isa: str, block: int) -> None:
    case = random_case(block, (3, 4), 30, torch.float32)
    without, _ = cpu.forward(case.x_TI, case.values_Sbb, None, case.index)
    with_zeros, _ = cpu.forward(case.x_TI, case.values_Sbb, torch.zeros_like(case.bias_O), case.index)
    assert torch.equal(without, with_zeros)
    with_bias, _ = cpu.weight_gradient(case.dy_TO, case.x_TI, case.index, block, with_bias=True)
    alone, none = cpu.weight_gradient(case.dy_TO, case.x_TI, case.index, block)
    assert none is None and torch.equal(with_bias, alone)


@pytest.mark.parametrize("block", (1, 8))
def test_gelu_is_as_good_as_float32(isa: str, block: int) -> None:
    """The weight is the identity, so the outputs before the GELU are the inputs."""
    x_TI = torch.cat([torch.linspace(-14, 14, 40_001)[:40_000], torch.randn(8_000)]).view(-1, 8)
    num = 8 // block
    index = random_index((num, num), 2.0, seed=0)
    diagonal = (index.rows_S == index.cols_S).float()
    values_Sbb = diagonal[:, None, None] * torch.eye(block)
    y_TO, pre_TO = cpu.forward(x_TI, values_Sbb, None, index, gelu=True)
    assert pre_TO is not None and torch.equal(pre_TO, x_TI)
    true_TO = 0.5 * x_TI.double() * torch.special.erfc(-x_TI.double() / 2**0.5)
    # torch's own float32 GELU is off by up to 5e-7 where |x| is about 4.
    assert (y_TO - true_TO).abs().max() <= (F.gelu(x_TI) - true_TO).abs().max() * 1.5
    # Relative to the result, which vanishes to the left: the rounding of x² / 2 in the exponent, and a few more.
    assert ((y_TO - true_TO).abs() <= (x_TI.double().square() + 8) * 2.0**-24 * true_TO.abs() + 1e-36).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", (1, 4, 8, 16))
def test_what_is_not_finite_stays_with_its_token(isa: str, block: int, dtype: torch.dtype) -> None:
    """Tiles share registers among tokens; a NaN of one token must not reach another's outputs."""
    case = random_case(block, (3, 4), 70, dtype, density=1.0)
    x_TI, dy_TO = case.x_TI.clone(), case.dy_TO.clone()
    x_TI[33], dy_TO[33] = torch.nan, torch.inf
    y_TO, _ = cpu.forward(x_TI, case.values_Sbb, case.bias_O, case.index, gelu=True)
    dx_TI = cpu.input_gradient(dy_TO, case.values_Sbb, case.index)
    others = torch.arange(70) != 33
    assert y_TO[33].isnan().all() and y_TO[others].isfinite().all()
    assert not dx_TI[33].isfinite().any() and dx_TI[others].isfinite().all()
    assert cpu.weight_gradient(dy_TO, case.x_TI, case.index, block)[0].isinf().any()


@pytest.mark.parametrize("block", (1, 4, 8, 16))
def test_rounds_ties_to_even_once(isa: str, block: int) -> None:
    """1 + 2⁻⁸ lies between two bfloat16 and goes to the even one, 1; 3 · 2⁻⁸ + 1 goes up to 1 + 2⁻⁶."""
    index = random_index((1, 1), 2.0, seed=0)
    values_Sbb = torch.zeros(1, block, block, dtype=torch.bfloat16)
    values_Sbb[0, 0, 0] = 2.0**-8
    bias_O = torch.ones(block, dtype=torch.bfloat16)
    x_TI = torch.zeros(2, block, dtype=torch.bfloat16)
    x_TI[:, 0] = torch.tensor([1.0, 3.0])
    y_TO, _ = cpu.forward(x_TI, values_Sbb, bias_O, index)
    assert y_TO[:, 0].tolist() == [1.0, 1.0 + 2.0**-6]


def test_supports() -> None:
    assert all(cpu.supports(block, dtype) for block in (1, 3, 8, 64) for dtype in DTYPES)
    assert (
        not cpu.supports(16, torch.float16) and not cpu.supports(16, torch.float64) and not cpu.supports(0, DTYPES[0])
    )
