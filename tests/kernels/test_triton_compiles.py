"""What Triton's compiler makes of the programs, for GPUs that need not be there: the interpreter knows no registers.

Every launch is recorded as the backend would make it, and compiled for Ampere and Hopper.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from dsparse.kernels import triton_backend
from dsparse.pattern.block_pattern import BlockPattern
from tests.kernels.triton_cases import BLOCKS, make_case, set_precision

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)
triton = pytest.importorskip("triton", reason="triton is not installed")
triton_compiler = pytest.importorskip("triton.compiler")
triton_target = pytest.importorskip("triton.backends.compiler")
triton_kernels = pytest.importorskip("dsparse.kernels.triton_kernels")

AMPERE, HOPPER = 80, 90
# What the smaller GPUs of both generations and Ada have, bytes per program.
MAX_SHARED = 99 * 1024
TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32"}
OPTIONS = ("num_warps", "num_stages")


class Launch(NamedTuple):
    """A program, as the backend would start it."""

    kernel: Any
    arguments: dict[str, Any]

    def compile(self, capability: int) -> Any:
        """As Triton would at this launch: pointers and sizes that are multiples of 16 are known to be."""
        signature, constants, attributes = {}, {}, {}
        for i, parameter in enumerate(self.kernel.params):
            value = self.arguments[parameter.name]
            if parameter.is_constexpr:
                signature[parameter.name], constants[parameter.name] = "constexpr", value
                continue
            is_tensor = isinstance(value, torch.Tensor)
            signature[parameter.name] = TYPES[value.dtype] if is_tensor else "i32"
            if is_tensor or (value % 16 == 0 and not parameter.do_not_specialize):
                attributes[(i,)] = [["tt.divisibility", 16]]
        source = triton_compiler.ASTSource(self.kernel, signature, constants, attributes)
        options = {name: self.arguments[name] for name in OPTIONS if name in self.arguments}
        return triton.compile(source, target=triton_target.GPUTarget("cuda", capability, 32), options=options)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Launch]]:
    """What is launched from here on, on CPU tensors and without being run."""
    recorded: list[Launch] = []

    class Recorder(NamedTuple):
        kernel: Any

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return lambda **arguments: recorded.append(Launch(self.kernel, arguments))

    kernels = {name: Recorder(getattr(triton_kernels, name)) for name in ("gathered_product", "weight_gradient")}
    kernels["sum_chunks"] = Recorder(triton_kernels.sum_chunks)
    monkeypatch.setattr(triton_backend, "_kernels", lambda: SimpleNamespace(INTERPRETED=True, **kernels))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return recorded


def run_all(block: int, kind: str, num_tokens: int = 2048) -> None:
    with set_precision(kind):
        case = make_case(BlockPattern.random((4 * block, 4 * block), block=block, density=0.5), num_tokens, kind)
        triton_backend.forward(case.x_TI, case.values_Sbb, case.bias_O, case.index, gelu=True)
        triton_backend.input_gradient(case.dy_TO, case.values_Sbb, case.index)
        triton_backend.weight_gradient(case.dy_TO, case.x_TI, case.index, block, with_bias=True)


def bytes_spilled(compiled: Any, tmp_path: Path) -> int:
    """Bytes of stack per thread, as the assembler wrote it down."""
    cubin = tmp_path / "program.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(cubin)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(usage.split("STACK:")[1].split()[0])


def check_compiled(launch: Launch, capability: int, kind: str, tmp_path: Path) -> None:
    compiled = launch.compile(capability)
    ptx, what = compiled.asm["ptx"], f"{launch.kernel.__name__} for sm_{capability}"
    assert compiled.metadata.shared <= MAX_SHARED, what
    # Without tensor cores the assembler gives up a few words for one more program beside this one.
    assert bytes_spilled(compiled, tmp_path) <= (64 if kind == "fp32" else 0), what
    if launch.kernel is triton_kernels.sum_chunks:
        assert "ld.global.v4" in ptx, what
        return
    tensor_core = "wgmma.mma_async" if capability == HOPPER else "mma.sync"
    assert (tensor_core in ptx) == (kind != "fp32"), what
    # Tiles are copied 16 bytes at a time. With TF32, Hopper has some transposed on the way, which takes 4 at a time.
    assert "cp.async.cg.shared.global" in ptx or kind == "tf32", what
    assert "cp.async" in ptx, what
    assert "st.global.v4" in ptx, what


@pytest.mark.parametrize("capability", [AMPERE, HOPPER])
def test_one_size_compiles(capability: int, launches: list[Launch], tmp_path: Path) -> None:
    run_all(64, "fp16")
    run_all(64, "fp16", num_tokens=256)  # one chunk: the weight gradient writes the result itself
    assert len(launches) == 4 + 3
    for launch in launches:
        check_compiled(launch, capability, "fp16", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "capability"), [("bf16", AMPERE), ("bf16", HOPPER), ("tf32", HOPPER), ("fp32", HOPPER)]
)
@pytest.mark.parametrize("block", BLOCKS)
def test_every_size_compiles(block: int, kind: str, capability: int, launches: list[Launch], tmp_path: Path) -> None:
    run_all(block, kind)
    for launch in launches:
        check_compiled(launch, capability, kind, tmp_path)


def test_a_change_of_tokens_or_pattern_compiles_nothing_new(launches: list[Launch]) -> None:
    """These change all through training; a program per count would stall it."""
    counts = {"num_tokens", "num_targets", "num_rows", "num_groups", "tokens_per_chunk", "num_chunks"}
    run_all(16, "bf16")
    for kernel in {id(launch.kernel): launch.kernel for launch in launches}.values():
        assert {p.name for p in kernel.params if p.do_not_specialize} == counts & set(kernel.arg_names)
