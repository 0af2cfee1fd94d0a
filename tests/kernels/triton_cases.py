"""What holds of the Triton backend. `test_triton.py` runs this file in a process of its own, where Triton's interpreter
stands in for a GPU: whether it does is decided when triton is first imported. On a GPU it runs the checks itself.

Tolerances are bounds, element by element. Sums of n products in fp32 are off by at most (n + 2) · 2⁻²⁴ · Σ|x·w| in any
order; the result is then rounded to its dtype once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from dsparse.kernels import reference, triton_backend
from dsparse.kernels.index import BlockIndex
from dsparse.pattern.block_pattern import BlockPattern

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
KINDS = ("fp16", "bf16", "fp32", "tf32")
BLOCKS = (16, 32, 64, 128)
# Row 0 and column 3 have five blocks, more than a round takes and no multiple of it; row 3, columns 2 and 5 have none.
GRID = (6, 7)
ACTIVE = [(0, 0), (0, 1), (0, 3), (0, 4), (0, 6), (1, 3), (2, 3), (4, 3), (5, 3), (5, 6)]


class Case(NamedTuple):
    """Inputs of the three products, and the precision that fp32 is to have."""

    index: BlockIndex
    block: int
    x_TI: Tensor
    dy_TO: Tensor
    values_Sbb: Tensor
    bias_O: Tensor
    kind: str

    def exact(self) -> Case:
        """The same numbers in float64."""
        tensors = ("x_TI", "dy_TO", "values_Sbb", "bias_O")
        return self._replace(**{name: getattr(self, name).double() for name in tensors})

    def magnitudes(self) -> Case:
        """Absolute values in float64: what errors are in proportion to."""
        tensors = ("x_TI", "dy_TO", "values_Sbb", "bias_O")
        return self._replace(**{name: getattr(self, name).double().abs() for name in tensors})


def dtype_of(kind: str) -> torch.dtype:
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(kind, torch.float32)


def small_pattern(block: int) -> BlockPattern:
    """ACTIVE, its slots in no order."""
    numbers = torch.tensor([row * GRID[1] + col for row, col in ACTIVE])
    order = torch.randperm(len(ACTIVE), generator=torch.Generator().manual_seed(1))
    return BlockPattern.from_block_numbers(numbers[order], (GRID[0] * block, GRID[1] * block), block)


def make_case(pattern: BlockPattern, num_tokens: int, kind: str, device: str = "cpu") -> Case:
    random = torch.Generator().manual_seed(0)
    (out_features, in_features), block = pattern.shape, pattern.block

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(device, dtype_of(kind))

    return Case(
        index=BlockIndex.of(pattern.to(device)),
        block=block,
        x_TI=normal(num_tokens, in_features),
        dy_TO=normal(num_tokens, out_features),
        values_Sbb=normal(pattern.num_active, block, block),
        bias_O=normal(out_features),
        kind=kind,
    )


def assert_within(
    got: Tensor, exact: Tensor, magnitude: Tensor, num_terms: int, kind: str, *, slope: float = 1
) -> None:
    """That sums, and with a `slope` a function of them, are as close to the truth as their arithmetic allows."""
    per_term = (num_terms + 2) * 2.0**-24
    if kind == "tf32" and not INTERPRETED:
        per_term += 2.0**-9  # two factors cut to ten bits each
    # Triton's interpreter cuts fp32 off to bf16, a GPU rounds.
    rounding = {"fp16": 2.0**-11, "bf16": 2.0**-7 if INTERPRETED else 2.0**-8}.get(kind, 2.0**-24)
    # Half the distance between fp16's smallest numbers.
    bound = 1.001 * (slope * per_term * magnitude + rounding * exact.abs()) + 2.0**-25
    assert got.dtype == dtype_of(kind)
    excess = ((got.double() - exact).abs() / bound).max() if got.numel() else torch.zeros(())
    assert excess <= 1, f"{excess:.3g} times the bound"


def check_forward(case: Case, *, with_bias: bool, gelu: bool) -> None:
    def run(backend: object, c: Case, gelu: bool) -> tuple[Tensor, Tensor | None]:
        return backend.forward(c.x_TI, c.values_Sbb, c.bias_O if with_bias else None, c.index, gelu=gelu)

    y_TO, preactivation_TO = run(triton_backend, case, gelu)
    exact_TO, exact_preactivation_TO = run(reference, case.exact(), gelu)
    magnitude_TO = run(reference, case.magnitudes(), False)[0]
    num_terms = case.x_TI.shape[1]
    if not gelu:
        assert preactivation_TO is None
        assert_within(y_TO, exact_TO, magnitude_TO, num_terms, case.kind)
        return
    assert preactivation_TO is not None and exact_preactivation_TO is not None
    assert_within(preactivation_TO, exact_preactivation_TO, magnitude_TO, num_terms, case.kind)
    # GELU is nowhere steeper than 1.13; erf is good to about four roundings, and 1 + erf may cancel.
    assert_within(y_TO, exact_TO, magnitude_TO + exact_preactivation_TO.abs(), num_terms + 4, case.kind, slope=1.13)


def check_input_gradient(case: Case) -> None:
    dx_TI, exact_TI, magnitude_TI = (
        backend.input_gradient(c.dy_TO, c.values_Sbb, c.index)
        for backend, c in ((triton_backend, case), (reference, case.exact()), (reference, case.magnitudes()))
    )
    assert_within(dx_TI, exact_TI, magnitude_TI, case.dy_TO.shape[1], case.kind)


def check_weight_gradient(case: Case, *, with_bias: bool) -> None:
    got, exact, magnitude = (
        backend.weight_gradient(c.dy_TO, c.x_TI, c.index, c.block, with_bias=with_bias)
        for backend, c in ((triton_backend, case), (reference, case.exact()), (reference, case.magnitudes()))
    )
    num_tokens = case.x_TI.shape[0]
    assert_within(got[0], exact[0], magnitude[0], num_tokens, case.kind)
    if with_bias:
        # No products here, so TF32 does not come in.
        kind = case.kind.replace("tf32", "fp32")
        assert_within(got[1], exact[1], magnitude[1], num_tokens, kind)
    else:
        assert got[1] is None


@contextmanager
def set_precision(kind: str) -> Iterator[None]:
    """Torch's switch for TF32: on for "tf32"."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if kind == "tf32" else "ieee"
    yield
    matmul.fp32_precision = before


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    with set_precision(request.param):
        yield request.param


def test_the_interpreter_runs() -> None:
    assert triton_backend.is_available() == (True, "Triton's interpreter, on a CPU: to test with, not to train with")


@pytest.mark.parametrize("block", BLOCKS)
def test_products(block: int, kind: str) -> None:
    # Two tiles of tokens, the second ragged.
    case = make_case(small_pattern(block), 130, kind)
    check_forward(case, with_bias=True, gelu=True)
    check_forward(case, with_bias=False, gelu=False)
    check_input_gradient(case)


@pytest.mark.parametrize(("with_bias", "gelu"), [(True, False), (False, True)])
def test_products_in_between(with_bias: bool, gelu: bool, kind: str) -> None:
    check_forward(make_case(small_pattern(16), 130, kind), with_bias=with_bias, gelu=gelu)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("tokens_per_chunk", "with_bias"), [(512, False), (64, True)], ids=["whole", "split"])
def test_weight_gradient(
    block: int, kind: str, tokens_per_chunk: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_backend, "_MIN_TOKENS_PER_CHUNK", tokens_per_chunk)
    check_weight_gradient(make_case(small_pattern(block), 150, kind), with_bias=with_bias)


@pytest.mark.parametrize(("tokens_per_chunk", "with_bias"), [(512, True), (64, False)], ids=["whole", "split"])
def test_weight_gradient_in_between(
    kind: str, tokens_per_chunk: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_backend, "_MIN_TOKENS_PER_CHUNK", tokens_per_chunk)
    check_weight_gradient(make_case(small_pattern(16), 150, kind), with_bias=with_bias)


@pytest.mark.parametrize("num_tokens", [1, 128])
def test_few_tokens(num_tokens: int) -> None:
    case = make_case(small_pattern(16), num_tokens, "fp16")
    check_forward(case, with_bias=True, gelu=True)
    check_input_gradient(case)
    check_weight_gradient(case, with_bias=True)


def test_no_tokens() -> None:
    case = make_case(small_pattern(16), 0, "fp16")
    y_TO, preactivation_TO = triton_backend.forward(case.x_TI, case.values_Sbb, case.bias_O, case.index, gelu=True)
    assert preactivation_TO is not None and y_TO.shape == preactivation_TO.shape == (0, 16 * GRID[0])
    assert triton_backend.input_gradient(case.dy_TO, case.values_Sbb, case.index).shape == (0, 16 * GRID[1])
    dw_Sbb, db_O = triton_backend.weight_gradient(case.dy_TO, case.x_TI, case.index, 16, with_bias=True)
    assert torch.equal(dw_Sbb, torch.zeros_like(case.values_Sbb))
    assert db_O is not None and torch.equal(db_O, torch.zeros_like(case.bias_O))


@pytest.mark.parametrize("tokens_per_chunk", [512, 64], ids=["whole", "split"])
def test_no_blocks(tokens_per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_backend, "_MIN_TOKENS_PER_CHUNK", tokens_per_chunk)
    pattern = BlockPattern.from_block_numbers(torch.zeros(0, dtype=torch.int64), (48, 80), 16)
    case = make_case(pattern, 140, "fp32")
    check_forward(case, with_bias=True, gelu=True)
    check_input_gradient(case)
    check_weight_gradient(case, with_bias=True)
    check_weight_gradient(case, with_bias=False)


@pytest.mark.parametrize("shape", [(16, 16), (16, 320), (320, 16)], ids=str)
def test_all_blocks(shape: tuple[int, int]) -> None:
    case = make_case(BlockPattern.random(shape, block=16, density=1.0), 40, "fp32")
    check_forward(case, with_bias=True, gelu=False)
    check_input_gradient(case)
    check_weight_gradient(case, with_bias=True)


@pytest.mark.parametrize("seed", range(5))
def test_random_patterns(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of all lengths, against groups and chunks of all kinds."""
    monkeypatch.setattr(triton_backend, "_MIN_TOKENS_PER_CHUNK", 48)
    random = torch.Generator().manual_seed(seed)
    rows, cols = (int(n) for n in torch.randint(1, 12, (2,), generator=random))
    block = 16 << seed % 2
    num_active = int(torch.randint(1, rows * cols + 1, (1,), generator=random))
    pattern = BlockPattern.random_with_count(
        (rows * block, cols * block), block=block, num_active=num_active, seed=seed
    )
    case = make_case(pattern, 100, "fp32")
    check_forward(case, with_bias=False, gelu=False)
    check_input_gradient(case)
    check_weight_gradient(case, with_bias=True)


@pytest.mark.parametrize("block", [16, 64])
def test_not_a_number_stays_where_it_belongs(block: int) -> None:
    """Masked tails name block 0, and a product with zero would spread what it finds there."""
    case = make_case(small_pattern(block), 40, "fp32")
    case.x_TI[:, :block] = torch.nan  # column 0, which only row 0 has
    case.dy_TO[:, :block] = torch.nan  # row 0
    y_TO, _ = triton_backend.forward(case.x_TI, case.values_Sbb, None, case.index)
    assert y_TO[:, :block].isnan().all() and y_TO[:, block:].isfinite().all()
    dx_TI = triton_backend.input_gradient(case.dy_TO, case.values_Sbb, case.index)
    has_row_0 = torch.tensor([any(active == (0, col) for active in ACTIVE) for col in range(GRID[1])])
    assert torch.equal(dx_TI.view(40, GRID[1], block).isnan().all(2).all(0), has_row_0)
    assert torch.equal(dx_TI.view(40, GRID[1], block).isnan().any(2).any(0), has_row_0)
    dw_Sbb, db_O = triton_backend.weight_gradient(case.dy_TO, case.x_TI, case.index, block, with_bias=True)
    assert torch.equal(dw_Sbb.isnan().all(2).all(1), case.index.rows_S == 0)
    assert torch.equal(dw_Sbb.isnan().any(2).any(1), case.index.rows_S == 0)
    assert db_O is not None and db_O[:block].isnan().all() and db_O[block:].isfinite().all()


def test_tokens_do_not_depend_on_each_other() -> None:
    case = make_case(small_pattern(16), 140, "bf16")
    whole_TO, _ = triton_backend.forward(case.x_TI, case.values_Sbb, case.bias_O, case.index)
    part_TO, _ = triton_backend.forward(case.x_TI[:50], case.values_Sbb, case.bias_O, case.index)
    assert torch.equal(whole_TO[:50], part_TO)


BAD_INPUTS = {
    "dtype": (lambda c: c._replace(x_TI=c.x_TI.half()), "Expected x of shape [20, 112], torch.float32, on cpu"),
    "features": (lambda c: c._replace(x_TI=c.x_TI[:, :96].contiguous()), "contiguous. Got [20, 96], torch.float32"),
    "contiguity": (lambda c: c._replace(x_TI=c.x_TI.T.contiguous().T), "on cpu, not contiguous."),
    "bias": (lambda c: c._replace(bias_O=c.bias_O[1:]), "Expected bias of shape [96]"),
    "values": (lambda c: c._replace(values_Sbb=c.values_Sbb[1:]), "Expected values of shape [10, 16, 16]"),
    "block": (lambda c: c._replace(values_Sbb=c.values_Sbb[:, :8, :8]), "Expected blocks of side 16, 32, 64, 128"),
    "rank": (lambda c: c._replace(values_Sbb=c.values_Sbb.flatten(1)), "Got side 0 in torch.float32"),
    "precision": (lambda c: c._replace(values_Sbb=c.values_Sbb.double()), "fp16, bf16 or fp32. Got side 16 in torch.f"),
    "index dtype": (
        lambda c: c._replace(index=c.index._replace(cols_S=c.index.cols_S.long())),
        "Expected index.cols_S of shape [10], torch.int32, on cpu, contiguous. Got [10], torch.int64, on cpu",
    ),
    "index length": (
        lambda c: c._replace(index=c.index._replace(row_slots=c.index.row_slots[1:])),
        "Expected index.row_slots of shape [10]",
    ),
    "device": (lambda c: c._replace(x_TI=c.x_TI.to("meta")), "Got [20, 112], torch.float32, on meta"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs_to_forward(name: str) -> None:
    spoil, message = BAD_INPUTS[name]
    case = spoil(make_case(small_pattern(16), 20, "fp32"))
    with pytest.raises(ValueError, match=re.escape(message)):
        triton_backend.forward(case.x_TI, case.values_Sbb, case.bias_O, case.index)


def test_bad_inputs_to_gradients() -> None:
    case = make_case(small_pattern(16), 20, "fp32")
    with pytest.raises(ValueError, match=re.escape("Expected dy of shape [20, 96]")):
        triton_backend.input_gradient(case.x_TI, case.values_Sbb, case.index)
    with pytest.raises(ValueError, match=re.escape("Expected x of shape [20, 112]")):
        triton_backend.weight_gradient(case.dy_TO, case.x_TI[1:], case.index, 16)
    with pytest.raises(ValueError, match=re.escape("Expected dy of shape [20, 192]")):
        triton_backend.weight_gradient(case.dy_TO, case.x_TI, case.index, 32)
    with pytest.raises(ValueError, match="Got side 8 in torch"):
        triton_backend.weight_gradient(case.dy_TO, case.x_TI, case.index, 8)
