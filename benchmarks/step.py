"""A whole training step, dense against packed: `python benchmarks/step.py --size medium --blocks 16 1`.

The same BERT, once dense and once for each block size with its encoder packed, takes a step of each in turn on the same
batch, in one process: what the machine does meanwhile happens to all of them. Printed are medians, and the median over
pairs of how many times faster packed is. Everything around the sparse products is the same code for both and as fast as
we know to make it: vocabulary head on labelled positions, SDPA attention, no dropout, fused AdamW, and an allocator
that keeps what is freed.

`--table` does it for sizes and sparsities in turn, `--split` says where the time of each goes, `--engine` trains
through `dsparse.initialize` under ZeRO 1, with the masked layout as a third.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch

from benchmarks.breakdown import WHOLE, time_by_kind
from benchmarks.training import (
    SEQ_LENGTH,
    VOCAB_SIZE,
    BareRun,
    EngineRun,
    Run,
    add_arguments,
    build,
    in_turn,
    make_engine,
    pack_encoder,
    paired_ratio,
    settle,
    verdict,
)
from dsparse.engine.world import init_world, set_deepspeed_log_level
from dsparse.train.host import tune_host

GOALS = {("medium", 0.9, 16): 2.8, ("medium", 0.9, 1): 2.0, ("base", 0.9, 16): 3.5, ("base", 0.9, 1): 2.5}
"""Times faster than dense, by (size, sparsity, block)."""
TABLE_SIZES = ["tiny", "mini", "small", "medium", "base"]
TABLE_SPARSITIES = [0.75, 0.9, 0.95, 0.99]
TABLE_BLOCKS = [1, 4, 16, 32, 64]


def main() -> None:
    """Measures and prints tables in Markdown."""
    arguments = parse()
    tuned = tune_host(1)  # before torch allocates anything, as pretrain.py does
    if arguments.engine:
        set_deepspeed_log_level("error")
        init_world()
    host = f"{torch.get_num_threads()} threads, fp32, {tuned}"
    print(f"{arguments.batch} x {SEQ_LENGTH} tokens, {arguments.steps} rounds, {host}\n")
    print("| size | sparsity | layout, block | step, ms | dense step, ms | times faster | goal | |")
    print("|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        for sparsity in arguments.sparsity:
            measured = measure(arguments, size, sparsity)
            rows += measured
            print("\n".join(map(line, measured)), flush=True)
    splits = [split(arguments, size, arguments.sparsity[0]) for size in arguments.sizes] if arguments.split else []
    for one in splits:
        print(f"\n{split_table(one)}")
    if arguments.json is not None:
        figures = {"batch": arguments.batch, "steps": arguments.steps, "host": host, "rows": rows, "splits": splits}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """The flags; what `--table` leaves open is every size, sparsity and block of the table in the docs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, size="medium", batch=16, steps=9)
    parser.add_argument("--sparsity", type=float, nargs="+")
    parser.add_argument("--blocks", type=int, nargs="+")
    parser.add_argument("--table", action="store_true", help="all sizes and, unless given, all sparsities and blocks")
    parser.add_argument("--split", action="store_true", help="where the time goes, for the first sparsity")
    parser.add_argument("--engine", action="store_true", help="through dsparse.initialize, ZeRO 1, one rank")
    arguments = parser.parse_args()
    if arguments.split and arguments.batch * SEQ_LENGTH == VOCAB_SIZE:
        parser.error("the vocabulary head is told apart by its size: choose a batch of another number of tokens")
    arguments.sizes = TABLE_SIZES if arguments.table else [arguments.size]
    arguments.sparsity = arguments.sparsity or (TABLE_SPARSITIES if arguments.table else [0.9])
    arguments.blocks = arguments.blocks or (TABLE_BLOCKS if arguments.table else [16, 1])
    return arguments


def measure(arguments: argparse.Namespace, size: str, sparsity: float) -> list[dict[str, Any]]:
    """A row for each layout and block."""
    make = engine_runs if arguments.engine else bare_runs
    runs = make(arguments, size, sparsity)
    seconds = in_turn(runs, batch=arguments.batch, steps=arguments.steps)
    for run in runs.values():
        if isinstance(run, EngineRun):
            run.engine.destroy()
    runs.clear()
    settle()
    dense_s = seconds.pop("dense")
    rows = []
    for name, taken_s in seconds.items():
        layout, block = name.split()
        rows.append(
            {
                "size": size,
                "sparsity": sparsity,
                "layout": layout,
                "block": int(block),
                "step_ms": 1e3 * statistics.median(taken_s),
                "dense_ms": 1e3 * statistics.median(dense_s),
                "times_faster": paired_ratio(dense_s, taken_s),
                "goal": GOALS.get((size, sparsity, int(block))) if layout == "packed" else None,
            }
        )
    return rows


def line(row: dict[str, Any]) -> str:
    """A row in Markdown."""
    block, ratio = row["block"], row["times_faster"]
    return (
        f"| {row['size']} | {row['sparsity']:g} | {row['layout']} {block}×{block} | {row['step_ms']:.1f} "
        f"| {row['dense_ms']:.1f} | {ratio:.2f} {verdict(ratio, row['goal'], at_least=True)}"
    )


def bare_runs(arguments: argparse.Namespace, size: str, sparsity: float) -> dict[str, Run]:
    """Dense, and packed with each block."""
    runs: dict[str, Run] = {"dense": BareRun(build(size))}
    for block in arguments.blocks:
        runs[f"packed {block}"] = BareRun(pack_encoder(build(size), sparsity, block, arguments.kernel))
    return runs


def engine_runs(arguments: argparse.Namespace, size: str, sparsity: float) -> dict[str, Run]:
    """DeepSpeed's engine, and ours with each block in both layouts."""
    runs: dict[str, Run] = {"dense": EngineRun(make_engine(size, arguments.batch, None))}
    for block in arguments.blocks:
        for layout in ("masked", "packed"):
            settings = {"method": "static", "sparsity": sparsity, "block_size": block, "layout": layout}
            kernel = {"kernel": arguments.kernel} if layout == "packed" else {}
            runs[f"{layout} {block}"] = EngineRun(make_engine(size, arguments.batch, settings | kernel))
    return runs


def split(arguments: argparse.Namespace, size: str, sparsity: float) -> dict[str, Any]:
    """Milliseconds by kind of operation, of dense and of each block, without an engine."""
    parts: dict[str, dict[str, float]] = {}
    for name in ("dense", *(f"packed {block}" for block in arguments.blocks)):
        model = build(size)
        if name != "dense":
            pack_encoder(model, sparsity, int(name.split()[1]), arguments.kernel)
        run = BareRun(model)
        parts[name] = time_by_kind(run, arguments.batch, max(1, arguments.steps // 3))
        del run, model
        settle()
    return {"size": size, "sparsity": sparsity, "ms": parts}


def split_table(found: dict[str, Any]) -> str:
    """Where the time goes, in Markdown."""
    parts = found["ms"]
    kinds = list(dict.fromkeys(kind for one in parts.values() for kind in one if kind != WHOLE))
    lines = [f"BERT-{found['size']}, sparsity {found['sparsity']:g}, milliseconds of a step:\n"]
    lines.append(f"| | {' | '.join(parts)} |\n|---|{'---|' * len(parts)}")
    for kind in (*kinds, WHOLE):
        lines.append(f"| {kind} | {' | '.join(f'{one.get(kind, 0.0):.1f}' for one in parts.values())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
