"""Bad input to the CPU backend is one ValueError that says what was expected; odd but good input is right."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys

import pytest
import torch

from dsparse.kernels import cpu, cpu_build
from dsparse.kernels.index import BlockIndex
from dsparse.pattern.block_pattern import BlockPattern
from tests.kernels.patterns import Case, largest_errors, random_case, true_products

pytestmark = pytest.mark.usefixtures("best_isa")


@pytest.fixture
def case() -> Case:
    return random_case(8, (3, 5), 20, torch.float32)


def rejects(message: str) -> pytest.RaisesExc[ValueError]:
    return pytest.raises(ValueError, match=re.escape(message))


def test_shapes(case: Case) -> None:
    slots = case.values_Sbb.shape[0]
    with rejects("Expected x of shape [any, 40], torch.float32 on the CPU. Got [20, 32], torch.float32 on cpu."):
        cpu.forward(case.x_TI[:, :32], case.values_Sbb, None, case.index)
    with rejects("Expected x of shape [any, 40], torch.float32 on the CPU. Got [2, 10, 40]"):
        cpu.forward(case.x_TI.view(2, 10, 40), case.values_Sbb, None, case.index)
    with rejects("Expected bias of shape [24], torch.float32 on the CPU. Got [23]"):
        cpu.forward(case.x_TI, case.values_Sbb, case.bias_O[:23], case.index)
    with rejects(f"Expected values of shape [{slots}, 8, 8], torch.float32 on the CPU. Got [{slots - 1}, 8, 8]"):
        cpu.forward(case.x_TI, case.values_Sbb[1:], None, case.index)
    with rejects(f"Expected values of shape [slots, block, block]. Got [{slots}, 8, 7]."):
        cpu.input_gradient(case.dy_TO, case.values_Sbb[:, :, :7], case.index)
    with rejects("Expected values of shape [slots, block, block]. Got [0, 0, 0]."):
        cpu.forward(case.x_TI, torch.empty(0, 0, 0), None, case.index)
    with rejects("Expected dy of shape [any, 24], torch.float32 on the CPU. Got [20, 40]"):
        cpu.input_gradient(case.x_TI, case.values_Sbb, case.index)
    with rejects("Expected x of shape [20, 40], torch.float32 on the CPU. Got [19, 40]"):
        cpu.weight_gradient(case.dy_TO, case.x_TI[1:], case.index, 8)
    with rejects("Expected dy of shape [any, 12], torch.float32 on the CPU. Got [20, 24]"):
        cpu.weight_gradient(case.dy_TO, case.x_TI, case.index, 4)
    with rejects("Expected a block side of at least 1. Got 0."):
        cpu.weight_gradient(case.dy_TO, case.x_TI, case.index, 0)


def test_dtypes(case: Case) -> None:
    with rejects("Expected x of shape [any, 40], float32 or bfloat16 on the CPU. Got [20, 40], torch.float64 on cpu."):
        cpu.forward(case.x_TI.double(), case.values_Sbb, None, case.index)
    with rejects("torch.bfloat16 on the CPU. Got [7, 8, 8], torch.float32 on cpu."):
        cpu.forward(case.x_TI.bfloat16(), case.values_Sbb, None, case.index)
    with rejects("Expected bias of shape [24], torch.float32 on the CPU. Got [24], torch.bfloat16 on cpu."):
        cpu.forward(case.x_TI, case.values_Sbb, case.bias_O.bfloat16(), case.index)
    with rejects("Expected x of shape [20, 40], torch.bfloat16 on the CPU. Got [20, 40], torch.float32 on cpu."):
        cpu.weight_gradient(case.dy_TO.bfloat16(), case.x_TI, case.index, 8)


def test_devices(case: Case) -> None:
    with rejects("on the CPU. Got [20, 40], torch.float32 on meta."):
        cpu.forward(case.x_TI.to("meta"), case.values_Sbb, None, case.index)
    elsewhere = case.index._replace(cols_S=case.index.cols_S.to("meta"))
    with rejects("Expected the index's cols_S to be int32, contiguous and on the CPU. Got [7], torch.int32 on meta."):
        cpu.forward(case.x_TI, case.values_Sbb, None, elsewhere)


def damaged_indices(index: BlockIndex) -> dict[str, BlockIndex]:
    def changed(name: str, position: int, value: int) -> BlockIndex:
        tensor = getattr(index, name).clone()
        tensor[position] = value
        return index._replace(**{name: tensor})

    return {
        "row too large": changed("rows_S", 0, 3),
        "row negative": changed("rows_S", 0, -1),
        "column too large": changed("cols_S", 0, 5),
        "column far out": changed("cols_S", 2, 2**31 - 1),
        "row slot too large": changed("row_slots", 0, 7),
        "row slot negative": changed("row_slots", 0, -1),
        "column slot far out": changed("col_slots", 0, 2**31 - 1),
        "first offset": changed("row_offsets", 0, 1),
        "last offset": changed("row_offsets", -1, 8),
        "column offsets descend": changed("col_offsets", 1, 6),
        "offset negative": changed("col_offsets", 1, -2),
        "another pattern's rows": index._replace(rows_S=index.rows_S.flip(0).contiguous()),
    }


def test_index_out_of_range(case: Case) -> None:
    for name, index in damaged_indices(case.index).items():
        try:
            cpu.forward(case.x_TI, case.values_Sbb, None, index)
        except ValueError as error:
            said = str(error)
        else:
            pytest.fail(f"{name} is accepted")
        assert said.startswith("Expected an index of 7 blocks in a grid of 3 x 5. Got slots, rows, columns or "), name
        with rejects("Expected an index of 7 blocks"):
            cpu.weight_gradient(case.dy_TO, case.x_TI, index, 8)


def test_index_dtypes_and_sizes(case: Case) -> None:
    long = case.index._replace(row_slots=case.index.row_slots.long())
    with rejects("Expected the index's row_slots to be int32, contiguous and on the CPU. Got [7], torch.int64 on cpu."):
        cpu.input_gradient(case.dy_TO, case.values_Sbb, long)
    strided = case.index._replace(cols_S=case.index.cols_S.repeat_interleave(2)[::2])
    with rejects("Got [7], torch.int32 on cpu, not contiguous."):
        cpu.input_gradient(case.dy_TO, case.values_Sbb, strided)
    short = case.index._replace(col_slots=case.index.col_slots[:-1])
    with rejects("Expected the index's col_slots to be of 7 slots. Got 6."):
        cpu.input_gradient(case.dy_TO, case.values_Sbb, short)


@pytest.mark.parametrize("block", (1, 4, 8, 16))
def test_not_contiguous_or_aligned(block: int) -> None:
    case = random_case(block, (3, 5), 33, torch.float32)
    true, errors = true_products(case), largest_errors(case)
    shifted = torch.empty(case.x_TI.numel() + 1)[1:].view_as(case.x_TI).copy_(case.x_TI)
    for x_TI in (case.x_TI.T.contiguous().T, shifted):
        y_TO, _ = cpu.forward(x_TI, case.values_Sbb.mT.contiguous().mT, case.bias_O, case.index)
        dx_TI = cpu.input_gradient(case.dy_TO.T.contiguous().T, case.values_Sbb, case.index)
        dvalues_Sbb, _ = cpu.weight_gradient(case.dy_TO.T.contiguous().T, x_TI, case.index, block)
        for name, found in (("y", y_TO), ("dx", dx_TI), ("dvalues", dvalues_Sbb)):
            assert ((found - true[name]).abs() <= errors[name]).all(), name


def run_with(variables: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_an_instruction_set_that_there_is_not() -> None:
    said = run_with({"DSPARSE_CPU_ISA": "mmx"}, "from dsparse.kernels import cpu; cpu.is_available()").stderr
    assert "ValueError: Expected DSPARSE_CPU_ISA to be one that this machine runs: " in said
    assert said.rstrip().endswith("portable. Got mmx.")


def test_a_chosen_instruction_set() -> None:
    code = "from dsparse.kernels import cpu; print(cpu.is_available())"
    assert run_with({"DSPARSE_CPU_ISA": "portable"}, code).stdout.strip() == "(True, 'portable')"


def test_the_struct_is_the_one_of_the_sources() -> None:
    """In order and size; csrc/abi.h and cpu.py say the same thing twice."""
    header = (cpu_build.SOURCES / "abi.h").read_text()
    fields = re.findall(
        r"^  (?:const )?(void\*|int32_t\*|int64_t|int32_t) (\w+);", header.split("struct Call")[1], re.M
    )
    kinds = {
        "void*": ctypes.c_void_p,
        "int32_t*": ctypes.c_void_p,
        "int64_t": ctypes.c_int64,
        "int32_t": ctypes.c_int32,
    }
    named = [(name.removesuffix("_S"), kind) for name, kind in cpu._Call._fields_]
    assert [(name, kinds[kind]) for kind, name in fields] == named


def test_blocks_too_large() -> None:
    """Larger ones would not fit a list of the kernels'; the reference computes them."""
    side = 2 * cpu.MAX_BLOCK
    pattern = BlockPattern.random((side, side), block=side, density=1.0)
    values, x = torch.zeros(1, side, side), torch.zeros(3, side)
    assert not cpu.supports(side, torch.float32) and cpu.supports(cpu.MAX_BLOCK, torch.float32)
    message = "Expected blocks of 1 to 256 a side"
    with pytest.raises(ValueError, match=message):
        cpu.forward(x, values, None, BlockIndex.of(pattern))
    with pytest.raises(ValueError, match=message):
        cpu.weight_gradient(x, x, BlockIndex.of(pattern), side)
