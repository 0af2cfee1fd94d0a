"""What the Triton kernels gain over dense on this GPU: `python benchmarks/kernels_gpu.py`.

The feed-forward layers of BERT Base and Large: forward, input gradient and weight gradient, each against cuBLAS on the
dense weight; forward also beside PyTorch's own sparse matmuls, 2:4 (half the weights, whatever the row's sparsity) and
BSR. All run in turns on the same tensors, so that clocks and heat happen to all. Before each run L2 is emptied and the
GPU sleeps while the work is queued, so that only its own time counts. What is printed are medians, as speed-ups.

`limit` is about what the best kernel could reach: the dense time, over that of moving what the products read and write
once at the speed of a large copy on this GPU. It hardly depends on the sparsity. The goals are for all three together.

`TRITON_INTERPRET=1 python benchmarks/kernels_gpu.py --smoke` tries the script without a GPU; its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dsparse.kernels import triton_backend
from dsparse.kernels.index import BlockIndex
from dsparse.pattern.block_pattern import BlockPattern

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SHAPES = {"Base": [(3072, 768), (768, 3072)], "Large": [(4096, 1024), (1024, 4096)]}
GOALS = {32: 4.0, 64: 6.0, 128: 6.0}
"""Of the three products together at s = 0.9, by block side."""
PRODUCTS = ("forward", "input gradient", "weight gradient")
OTHERS = ("2:4", "BSR")
COLUMNS = ("out×in", "block", "s", *PRODUCTS, "all, ms (dense)", "all", "limit", *OTHERS, "goal")
SMOKE_SHAPE, SMOKE_TOKENS = (256, 128), 64
SLEEP_CYCLES = 2_000_000  # about a millisecond: longer than queueing one run takes


class Row(NamedTuple):
    """Milliseconds of one weight's products, medians."""

    shape: tuple[int, int]
    block: int
    sparsity: float
    dense_ms: dict[str, float]
    sparse_ms: dict[str, float]
    others_ms: dict[str, float]
    limit: float

    @property
    def speedup(self) -> float:
        """Of all three products together."""
        return sum(self.dense_ms.values()) / sum(self.sparse_ms.values())

    @property
    def verdict(self) -> str:
        """Whether the goal is met; empty where there is none."""
        if self.block not in GOALS or self.sparsity != 0.9:
            return ""
        goal = GOALS[self.block]
        met = "met" if self.speedup >= goal else "missed" if self.limit >= goal else "missed, above the limit"
        return f"≥ {goal:g}: {met}"

    def __str__(self) -> str:
        ratios = [f"{self.dense_ms[p] / self.sparse_ms[p]:.2f}" for p in PRODUCTS]
        dense_ms, sparse_ms = sum(self.dense_ms.values()), sum(self.sparse_ms.values())
        others = [f"{self.dense_ms['forward'] / self.others_ms[n]:.2f}" if n in self.others_ms else "" for n in OTHERS]
        cells = [f"{self.shape[0]}×{self.shape[1]}", f"{self.block}×{self.block}", f"{self.sparsity:g}", *ratios]
        cells += [f"{sparse_ms:.3f} ({dense_ms:.3f})", f"**{self.speedup:.2f}**", f"{self.limit:.2f}", *others]
        return f"| {' | '.join([*cells, self.verdict])} |"


def main() -> None:
    """Measures and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--tf32", action="store_true", help="let fp32 use TF32, dense and sparse alike")
    parser.add_argument("--bias", action="store_true", help="with a bias, forward and its gradient")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--blocks", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.75, 0.9, 0.99])
    parser.add_argument("--rounds", type=int, default=30, help="counted runs of each product")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to try the script")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.tokens = SMOKE_TOKENS
    available, reason = triton_backend.is_available()
    if not available or not (arguments.smoke or torch.cuda.is_available()):
        print(f"Expected a GPU that the Triton kernels run on. Got none: {reason}.", file=sys.stderr)
        sys.exit(1)
    torch.backends.cuda.matmul.fp32_precision = "tf32" if arguments.tf32 else "ieee"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(
        f"{describe(device)}, {arguments.dtype}{' (TF32)' if arguments.tf32 else ''}, {arguments.tokens} tokens,",
        end=" ",
    )
    print(f"{'with' if arguments.bias else 'without'} bias\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    rows = []
    for row in measure_all(arguments, device):
        print(row, flush=True)
        rows.append(row)
    if arguments.json:
        settings = {k: v for k, v in vars(arguments).items() if k != "json"}
        figures = [{**row._asdict(), "speedup": row.speedup, "verdict": row.verdict} for row in rows]
        arguments.json.write_text(
            json.dumps({"device": describe(device), "settings": settings, "rows": figures}, indent=1)
        )


def describe(device: torch.device) -> str:
    """The device and the software, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} (interpreted)"
    return f"{name}, torch {torch.__version__}"


def measure_all(arguments: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The rows of the table."""
    shapes = [SMOKE_SHAPE] if arguments.smoke else [shape for layers in SHAPES.values() for shape in layers]
    timer = Timer(device, arguments.rounds)
    torch.manual_seed(0)
    bytes_per_ms = timer.copy_bytes_per_ms()
    for shape in shapes:
        for block in arguments.blocks:
            for sparsity in arguments.sparsities:
                layer = Layer.random(
                    BlockPattern.random(shape, block=block, density=1 - sparsity).to(device),
                    arguments.tokens,
                    DTYPES[arguments.dtype],
                    with_bias=arguments.bias,
                )
                yield measure(layer, sparsity, timer, bytes_per_ms)


@dataclass(frozen=True)
class Layer:
    """A linear layer's inputs, packed and dense."""

    pattern: BlockPattern
    index: BlockIndex
    x_TI: Tensor
    dy_TO: Tensor
    values_Sbb: Tensor
    weight_OI: Tensor
    bias_O: Tensor | None

    @classmethod
    def random(cls, pattern: BlockPattern, num_tokens: int, dtype: torch.dtype, *, with_bias: bool) -> Layer:
        """Random numbers where the pattern has blocks, on its device."""
        block = pattern.block

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, dtype=dtype, device=pattern.rows.device)

        values_Sbb = normal(pattern.num_active, block, block)
        grid_RCbb = values_Sbb.new_zeros(*pattern.grid, block, block)
        grid_RCbb[pattern.rows.long(), pattern.cols.long()] = values_Sbb
        weight_OI = grid_RCbb.transpose(1, 2).reshape(pattern.shape)
        x_TI, dy_TO = normal(num_tokens, pattern.shape[1]), normal(num_tokens, pattern.shape[0])
        bias_O = normal(pattern.shape[0]) if with_bias else None
        return cls(pattern, BlockIndex.of(pattern), x_TI, dy_TO, values_Sbb, weight_OI, bias_O)

    def sparse(self) -> dict[str, Callable[[], Any]]:
        """The three products, packed."""
        x, dy, values, index, block = self.x_TI, self.dy_TO, self.values_Sbb, self.index, self.pattern.block
        with_bias = self.bias_O is not None
        return {
            "forward": lambda: triton_backend.forward(x, values, self.bias_O, index),
            "input gradient": lambda: triton_backend.input_gradient(dy, values, index),
            "weight gradient": lambda: triton_backend.weight_gradient(dy, x, index, block, with_bias=with_bias),
        }

    def dense(self) -> dict[str, Callable[[], Any]]:
        """The three products as `nn.Linear` has them."""
        x, dy, weight, bias = self.x_TI, self.dy_TO, self.weight_OI, self.bias_O
        return {
            "forward": lambda: F.linear(x, weight, bias),
            "input gradient": lambda: dy @ weight,
            "weight gradient": lambda: (dy.T @ x, dy.sum(0) if bias is not None else None),
        }

    def others(self) -> dict[str, Callable[[], Any]]:
        """PyTorch's sparse forward passes, those that take this weight on this device."""
        b = self.pattern.block
        found: dict[str, Callable[[], Any]] = {}
        makers = {"2:4": two_four, "BSR": lambda weight: weight.to_sparse_bsr((b, b))}
        for name, make in makers.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # both say that they are in beta
                    weight = make(self.weight_OI)
                    F.linear(self.x_TI, weight, self.bias_O)
                found[name] = partial(F.linear, self.x_TI, weight, self.bias_O)
            except Exception as error:  # whatever another's kernels raise, the rest of the table is worth having
                print(f"no {name} of {self.pattern.shape} in {b}×{b}: {str(error).splitlines()[0]}", file=sys.stderr)
        return found

    def bytes_moved(self) -> int:
        """What each of the products reads and writes at least: tokens, both sides; the blocks are little."""
        return (self.x_TI.numel() + self.dy_TO.numel() + self.values_Sbb.numel()) * self.x_TI.element_size()


def two_four(weight_OI: Tensor) -> Tensor:
    """A weight of this shape with two of every four: its time does not depend on which."""
    from torch.sparse import to_sparse_semi_structured

    if not weight_OI.is_cuda:
        raise NotImplementedError("2:4 needs a GPU")
    kept_I = torch.tensor([1, 1, 0, 0], dtype=weight_OI.dtype, device=weight_OI.device).tile(weight_OI.shape[1] // 4)
    return to_sparse_semi_structured(torch.randn_like(weight_OI) * kept_I)


def measure(layer: Layer, sparsity: float, timer: Timer, bytes_per_ms: float) -> Row:
    """One row: everything in turns."""
    runs = {("dense", name): run for name, run in layer.dense().items()}
    runs |= {("sparse", name): run for name, run in layer.sparse().items()}
    runs |= {("other", name): run for name, run in layer.others().items()}
    times_ms = timer.medians(runs)

    def of(kind: str) -> dict[str, float]:
        return {name: ms for (k, name), ms in times_ms.items() if k == kind}

    limit = sum(of("dense").values()) / (len(PRODUCTS) * layer.bytes_moved() / bytes_per_ms)
    return Row(layer.pattern.shape, layer.pattern.block, sparsity, of("dense"), of("sparse"), of("other"), limit)


class Timer:
    """Times runs on a device."""

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device, self.rounds = device, rounds
        # Read and not written before each run: a full L2 of changed lines would have to be written back during it.
        self._larger_than_l2 = torch.zeros(2**26 if device.type == "cuda" else 1, device=device)

    def medians(self, runs: dict[Any, Callable[[], Any]]) -> dict[Any, float]:
        """Milliseconds of each; a run of each in turn, after three that do not count (compilation, clocks)."""
        times_ms: dict[Any, list[float]] = {name: [] for name in runs}
        warm_up = 3 if self.device.type == "cuda" else 0
        for i in range(warm_up + self.rounds):
            for name, run in runs.items():
                duration_ms = self._time_ms(run)
                if i >= warm_up:
                    times_ms[name].append(duration_ms)
        return {name: statistics.median(durations_ms) for name, durations_ms in times_ms.items()}

    def copy_bytes_per_ms(self) -> float:
        """What a large copy reads and writes."""
        source = torch.zeros(2**30 if self.device.type == "cuda" else 2**20, dtype=torch.int8, device=self.device)
        target = torch.empty_like(source)
        return 2 * source.numel() / self.medians({"copy": lambda: target.copy_(source)})["copy"]

    def _time_ms(self, run: Callable[[], Any]) -> float:
        if self.device.type != "cuda":
            t0_s = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - t0_s)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._larger_than_l2.sum()
        torch.cuda._sleep(SLEEP_CYCLES)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


if __name__ == "__main__":
    main()
