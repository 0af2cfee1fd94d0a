"""The Triton backend: the cases of `triton_cases.py` in the interpreter and on a GPU, and what needs neither."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsparse.kernels import triton_backend
from dsparse.pattern.block_pattern import BlockPattern
from tests.kernels.triton_cases import (
    BLOCKS,
    KINDS,
    check_forward,
    check_input_gradient,
    check_weight_gradient,
    make_case,
    set_precision,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/triton_cases.py"],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout, done.stdout


def test_triton_is_imported_at_first_use_only() -> None:
    program = "import sys; from dsparse.kernels import triton_backend as b; b.supports(16, None); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "dsparse.kernels.triton_backend" in loaded.stdout.split()
    assert "triton" not in loaded.stdout.split()


def test_why_it_is_not_available() -> None:
    with mock.patch("importlib.util.find_spec", return_value=None):
        assert triton_backend.is_available() == (False, "triton is not installed")
    with mock.patch.object(triton_backend, "_kernels", side_effect=ImportError("no libtriton")):
        assert triton_backend.is_available()[0] is False
    compiled = mock.patch.object(triton_backend, "_kernels", return_value=mock.Mock(INTERPRETED=False))
    with compiled, mock.patch("importlib.util.find_spec"), mock.patch("torch.cuda.is_available", return_value=False):
        assert triton_backend.is_available() == (False, "there is no CUDA device")


def test_without_the_interpreter_tensors_are_on_a_gpu() -> None:
    case = make_case(BlockPattern.random((32, 32), block=16, density=0.5), 4, "fp32")
    with (
        mock.patch.object(triton_backend, "_kernels", return_value=mock.Mock(INTERPRETED=False)),
        pytest.raises(ValueError, match=r"Expected tensors on a CUDA device\. Got cpu\."),
    ):
        triton_backend.forward(case.x_TI, case.values_Sbb, None, case.index)


def test_supports() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert [b for b in (1, 4, 8, 16, 32, 48, 64, 128, 256) if triton_backend.supports(b, dtype)] == list(BLOCKS)
    assert not triton_backend.supports(16, torch.float64)


def test_torch_decides_on_tf32() -> None:
    for kind, expected in (("fp16", "ieee"), ("bf16", "ieee"), ("fp32", "ieee"), ("tf32", "tf32")):
        with set_precision(kind):
            assert triton_backend._precision(torch.float32)[1] == expected
            assert triton_backend._precision(torch.bfloat16) == ("half", "ieee")


def test_torchs_older_switches_decide_as_well() -> None:
    """In a process of its own, for torch minds when old and new switches meet."""
    program = """if True:
        import torch
        from dsparse.kernels.triton_backend import _precision
        print(_precision(torch.float32)[1])
        torch.set_float32_matmul_precision("high")
        print(_precision(torch.float32)[1])
        torch.backends.cuda.matmul.allow_tf32 = False
        print(_precision(torch.float32)[1])
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ieee", "tf32", "ieee"]


@given(
    num_tokens=st.integers(1, 10**6),
    num_rows=st.integers(1, 2000),
    density=st.floats(0, 1),
    tiles=st.sampled_from(sorted(triton_backend._TILES.values())),
)
def test_chunks_cover_the_tokens(num_tokens: int, num_rows: int, density: float, tiles: triton_backend._Tiles) -> None:
    chunks = triton_backend._Chunks.of(num_tokens, round(density * num_rows * num_rows), num_rows, tiles)
    assert (chunks.num - 1) * chunks.tokens < num_tokens <= chunks.num * chunks.tokens
    assert chunks.tokens % tiles.group_tokens == 0
    assert chunks.num == 1 or chunks.tokens >= 512


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", [(3072, 768), (1024, 4096)], ids=str)
def test_on_a_gpu(shape: tuple[int, int], block: int, kind: str) -> None:
    pattern = BlockPattern.random(shape, block=block, density=0.1)
    with set_precision(kind):
        case = make_case(pattern, 2500, kind, "cuda")
        for flag in (False, True):
            check_forward(case, with_bias=flag, gelu=flag)
            check_forward(case, with_bias=flag, gelu=not flag)
            check_weight_gradient(case, with_bias=flag)
        check_input_gradient(case)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", BLOCKS)
def test_a_gpu_gives_the_same_bits_every_time(block: int, kind: str) -> None:
    case = make_case(BlockPattern.random((1024, 1024), block=block, density=0.1), 5000, kind, "cuda")

    def run() -> list[torch.Tensor]:
        y_TO, preactivation_TO = triton_backend.forward(case.x_TI, case.values_Sbb, case.bias_O, case.index, gelu=True)
        dx_TI = triton_backend.input_gradient(case.dy_TO, case.values_Sbb, case.index)
        dw_Sbb, db_O = triton_backend.weight_gradient(case.dy_TO, case.x_TI, case.index, block, with_bias=True)
        assert preactivation_TO is not None and db_O is not None
        return [y_TO, preactivation_TO, dx_TI, dw_Sbb, db_O]

    with set_precision(kind):
        first = run()
        for _ in range(20):
            assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


@pytest.mark.gpu
def test_more_elements_than_int32_counts() -> None:
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GiB of free GPU memory")
    pattern = BlockPattern.random((8192, 64), block=32, density=0.2)
    num_tokens = 2**18 + 100
    large = make_case(pattern, 1, "bf16", "cuda")
    x_TI = torch.randn(num_tokens, 64, device="cuda", dtype=torch.bfloat16)
    y_TO, _ = triton_backend.forward(x_TI, large.values_Sbb, large.bias_O, large.index)
    end = slice(num_tokens - 1000, num_tokens)
    check_TO, _ = triton_backend.forward(x_TI[end].contiguous(), large.values_Sbb, large.bias_O, large.index)
    assert y_TO.numel() > 2**31 and torch.equal(y_TO[end], check_TO)
    dx_TI = triton_backend.input_gradient(y_TO, large.values_Sbb, large.index)
    assert torch.equal(dx_TI[end], triton_backend.input_gradient(y_TO[end].contiguous(), large.values_Sbb, large.index))
    # The last tokens alone count, beyond what int32 reaches.
    y_TO[: end.start] = 0
    got_Sbb, _ = triton_backend.weight_gradient(y_TO, x_TI, large.index, 32)
    want_Sbb, _ = triton_backend.weight_gradient(y_TO[end].contiguous(), x_TI[end].contiguous(), large.index, 32)
    # Sums of about a hundred, in other chunks; they would be 0, or of other tokens, if int32 overflowed.
    torch.testing.assert_close(got_Sbb, want_Sbb, rtol=2**-7, atol=0.1)
