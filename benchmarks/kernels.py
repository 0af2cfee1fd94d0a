"""How fast products with a block-sparse weight are next to dense ones: `python benchmarks/kernels.py`.

One layer's forward pass, input gradient and weight gradient, by torch dense, by the packed kernels, and by what else is
installed (benchmarks/kernel_peers.py), all in turn on the same tensors in one process, so that whatever the machine
does meanwhile happens to all. Times are medians; a ratio is the median over rounds of dense / packed, so 10 at
sparsity 0.9 is as good as it can get where arithmetic is all that counts. With --crossover, the sparsity from which on
packed is faster than dense.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.kernel_peers import (
    ALL,
    FORWARD,
    INPUT_GRADIENT,
    PRODUCTS,
    WEIGHT_GRADIENT,
    Contender,
    Layer,
    dense,
    peers,
)
from dsparse.kernels.index import BlockIndex
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.train.host import tune_host

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# (out, in), of BERT-medium's and BERT-base's encoders.
LAYERS = ("512x512", "2048x512", "512x2048", "768x768", "3072x768", "768x3072")
# Speed-up over dense of the three products together, fp32 on a CPU, by (block, sparsity).
GOALS = {
    **{(1, 0.75): 1.7, (1, 0.9): 4.5, (1, 0.99): 20.0, (4, 0.9): 6.5, (8, 0.9): 7.0},
    **{(16, 0.75): 3.2, (16, 0.9): 8.0, (16, 0.99): 40.0, (32, 0.9): 8.5, (64, 0.9): 8.5},
}
BACKEND_OF_DEVICE = {"cpu": "cpu", "cuda": "triton_backend"}
DEVICE_OF_BACKEND = {"triton_backend": "cuda"}
PEER_ROUNDS = 3  # some take a hundred times as long


def main() -> None:
    """Measures and prints tables in Markdown."""
    arguments = parsed()
    host = tune_host(1)  # as pretrain.py does
    backend = importlib.import_module(f"dsparse.kernels.{arguments.backend}")
    if hasattr(backend, "is_available"):
        available, reason = backend.is_available()
        if not available:
            raise SystemExit(f"The {backend.NAME} backend is not there: {reason}.")
    machine = describe_machine(arguments.device, backend)
    print(f"{machine}, {torch.get_num_threads()} threads, {arguments.tokens} tokens, {arguments.dtype},")
    print(f"backend {backend.NAME}, {arguments.rounds} rounds, {host}\n")
    rows: list[dict[str, Any]] = []
    crossovers: dict[str, float | None] = {}
    if arguments.crossover:
        print("| block | packed is faster than dense from sparsity |\n|---|---|")
        for block in arguments.blocks:
            crossovers[str(block)] = crossover(arguments, backend, block)
            print(f"| {block}×{block} | {format_crossover(crossovers[str(block)])} |", flush=True)
    else:
        rows = measure_all(arguments, backend)
        print_goals(rows, arguments)
    if arguments.json is not None:
        report = {"machine": machine, "threads": torch.get_num_threads(), "backend": backend.NAME}
        report |= {"tokens": arguments.tokens, "dtype": arguments.dtype, "rows": rows, "crossovers": crossovers}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--backend", default=BACKEND_OF_DEVICE[device], help="a module of dsparse.kernels")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--layers", nargs="+", default=LAYERS, metavar="OUTxIN")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.75, 0.9, 0.99])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-peers", action="store_true", help="dense and packed only")
    parser.add_argument(
        "--crossover", action="store_true", help="search the sparsity at which packed is as fast as dense"
    )
    parser.add_argument("--json", type=Path, help="writes all figures here too")
    arguments = parser.parse_args()
    arguments.device = DEVICE_OF_BACKEND.get(arguments.backend, "cpu")
    return arguments


def measure_all(arguments: argparse.Namespace, backend: Any) -> list[dict[str, Any]]:
    """Every layer at every block side and sparsity; prints a row for each contender as it comes."""
    print(f"| block | sparsity | layer | by | {' | '.join(f'{name}, ms' for name in PRODUCTS)} ", end="")
    print(f"| {' | '.join(f'{name}, ×' for name in (*PRODUCTS, ALL))} |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for block in arguments.blocks:
        for sparsity in arguments.sparsities:
            for shape in arguments.layers:
                layer, packed = make_layer(arguments, backend, shape, block, sparsity)
                others = [] if arguments.no_peers else list(peers(layer))
                seconds = measure([dense(layer), packed], arguments.rounds, arguments.device)
                if others:
                    # Dense once more: each peer is compared with the dense of its own rounds.
                    with_peers = measure([dense(layer), *others], min(arguments.rounds, PEER_ROUNDS), arguments.device)
                    rows += rows_of({"block": block, "sparsity": sparsity, "layer": shape}, seconds)
                    rows += rows_of({"block": block, "sparsity": sparsity, "layer": shape}, with_peers)[1:]
                else:
                    rows += rows_of({"block": block, "sparsity": sparsity, "layer": shape}, seconds)
                for row in rows[-2 - len(others) :]:
                    print(format_row(row), flush=True)
    return rows


def make_layer(
    arguments: argparse.Namespace, backend: Any, shape: str, block: int, sparsity: float
) -> tuple[Layer, Contender]:
    """A layer with blocks drawn at random, dense and packed."""
    num_out, num_in = (int(side) for side in shape.split("x"))
    random = torch.Generator().manual_seed(0)
    num_rows, num_cols = num_out // block, num_in // block
    num_slots = max(1, round((1 - sparsity) * num_rows * num_cols))
    places_S = torch.randperm(num_rows * num_cols, generator=random)[:num_slots].to(torch.int32)
    pattern = BlockPattern(places_S // num_cols, places_S % num_cols, shape=(num_out, num_in), block=block)
    dtype, device = DTYPES[arguments.dtype], arguments.device
    values_Sbb = torch.randn(num_slots, block, block, generator=random).to(dtype)
    x_TI = torch.randn(arguments.tokens, num_in, generator=random).to(dtype)
    dy_TO = torch.randn(arguments.tokens, num_out, generator=random).to(dtype)
    w_RbCb = torch.zeros(num_rows, block, num_cols, block, dtype=dtype)
    w_RbCb[pattern.rows.long(), :, pattern.cols.long(), :] = values_Sbb
    layer = Layer(x_TI.to(device), dy_TO.to(device), w_RbCb.view(num_out, num_in).to(device), block)
    index = BlockIndex(*(tensor.to(device) for tensor in BlockIndex.of(pattern)))
    values_Sbb = values_Sbb.to(device)
    packed = Contender(
        "packed",
        {
            FORWARD: lambda: backend.forward(layer.x_TI, values_Sbb, None, index),
            INPUT_GRADIENT: lambda: backend.input_gradient(layer.dy_TO, values_Sbb, index),
            WEIGHT_GRADIENT: lambda: backend.weight_gradient(layer.dy_TO, layer.x_TI, index, block),
        },
    )
    return layer, packed


def measure(contenders: Sequence[Contender], rounds: int, device: str) -> dict[str, dict[str, list[float]]]:
    """Seconds of each product by each contender in each round, after one that is not counted."""
    seconds: dict[str, dict[str, list[float]]] = {contender.name: defaultdict(list) for contender in contenders}
    for number in range(rounds + 1):
        for product in (*PRODUCTS, ALL):
            # Who goes first alternates: the second finds warmer caches.
            for contender in contenders if number % 2 else reversed(contenders):
                if product in contender.products:
                    took_s = timed(contender.products[product], device)
                    if number > 0:
                        seconds[contender.name][product].append(took_s)
    for products in seconds.values():
        if ALL not in products and len(products) == len(PRODUCTS):
            products[ALL] = [sum(each) for each in zip(*(products[product] for product in PRODUCTS), strict=True)]
    return seconds


def timed(function: Callable[[], Any], device: str) -> float:
    """Seconds a call takes. Its result is kept until the clock has stopped, so that freeing it is not counted."""
    if device == "cuda":
        torch.cuda.synchronize()
    t0_s = time.perf_counter()
    result = function()
    if device == "cuda":
        torch.cuda.synchronize()
    took_s = time.perf_counter() - t0_s
    del result
    return took_s


def rows_of(cell: dict[str, Any], seconds: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """One row for each contender, the dense one first: median milliseconds and ratios by product."""
    rows = []
    for name, products in seconds.items():
        ratios = {
            product: statistics.median(d / s for d, s in zip(seconds["dense"][product], each_s, strict=True))
            for product, each_s in products.items()
        }
        ms = {product: 1e3 * statistics.median(each_s) for product, each_s in products.items()}
        rows.append({**cell, "by": name, "ms": ms, "ratios": ratios})
    return rows


def format_row(row: dict[str, Any]) -> str:
    """A row of the table; – where a contender lacks a product."""
    ms = [f"{row['ms'][product]:.2f}" if product in row["ms"] else "–" for product in PRODUCTS]
    ratios = [f"{row['ratios'][product]:.2f}" if product in row["ratios"] else "–" for product in (*PRODUCTS, ALL)]
    start = f"| {row['block']}×{row['block']} | {row['sparsity']:g} | {row['layer']} | {row['by']} "
    return f"{start}| {' | '.join(ms)} | {' | '.join(ratios)} |"


def print_goals(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """How many times faster packed is, its three products together, by block, sparsity and layer, beside the goals."""
    layers = arguments.layers
    print("\nTimes faster than dense, the three products together:\n")
    print(f"| block | sparsity | {' | '.join(layers)} | all layers | goal | |")
    print(f"|---|---|{'---|' * len(layers)}---|---|---|")
    has_goals = arguments.dtype == "fp32" and arguments.device == "cpu"
    for block in arguments.blocks:
        for sparsity in arguments.sparsities:
            cells = [row for row in rows if (row["block"], row["sparsity"]) == (block, sparsity)]
            packed = {row["layer"]: row for row in cells if row["by"] == "packed"}
            dense_ms = sum(row["ms"][ALL] for row in cells if row["by"] == "dense")
            together = dense_ms / sum(row["ms"][ALL] for row in packed.values())
            goal = GOALS.get((block, sparsity)) if has_goals else None
            of_layers = " | ".join(f"{packed[layer]['ratios'][ALL]:.2f}" for layer in layers)
            least = min(row["ratios"][ALL] for row in packed.values())
            print(
                f"| {block}×{block} | {sparsity:g} | {of_layers} | {together:.2f} | "
                f"{'' if goal is None else f'{goal:g}'} | {verdict(goal, least, together)} |"
            )


def verdict(goal: float | None, least: float, together: float) -> str:
    """Whether a goal is met by every layer, by all of them together, or by how much these miss it."""
    if goal is None:
        return ""
    if least >= goal:
        return "met"
    return "met on average" if together >= goal else f"missed by {1 - together / goal:.0%}"


def crossover(arguments: argparse.Namespace, backend: Any, block: int) -> float | None:
    """The sparsity at which packed takes as long as dense, all layers and products together; None if it never does."""
    low, high = 0.0, 0.99  # packed slower, packed faster
    if packed_ratio(arguments, backend, block, high) < 1:
        return None
    for _ in range(6):
        middle = (low + high) / 2
        low, high = (low, middle) if packed_ratio(arguments, backend, block, middle) >= 1 else (middle, high)
    return high


def packed_ratio(arguments: argparse.Namespace, backend: Any, block: int, sparsity: float) -> float:
    """Dense over packed seconds, all layers and products together."""
    totals_s = {"dense": 0.0, "packed": 0.0}
    for shape in arguments.layers:
        layer, packed = make_layer(arguments, backend, shape, block, sparsity)
        for name, products in measure([dense(layer), packed], arguments.rounds, arguments.device).items():
            totals_s[name] += statistics.median(products[ALL])
    return totals_s["dense"] / totals_s["packed"]


def format_crossover(sparsity: float | None) -> str:
    """Two digits, which is what bisection leaves."""
    return "none" if sparsity is None else f"{sparsity:.2f}"


def describe_machine(device: str, backend: Any) -> str:
    """The processor or GPU, and the instruction set that the backend uses where it says so."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    isa = backend.is_available()[1] if hasattr(backend, "is_available") else torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {isa}"


if __name__ == "__main__":
    main()
