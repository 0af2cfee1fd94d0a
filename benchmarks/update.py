"""What a pattern update of the packed layout costs, in ordinary steps: `python benchmarks/update.py --size base`.

An engine of `dsparse.initialize` (ZeRO 1, one rank, fp32) for each block size, whose pattern changes after every
second step, so that an update and an ordinary step are measured in turn. An update is all of it: agreement, finiteness,
scores, drop and grow, zeroing, the new orders, agreement again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.training import (
    SEQ_LENGTH,
    EngineRun,
    add_arguments,
    make_engine,
    random_batch,
    settle,
    timed,
    verdict,
)
from dsparse.engine.world import init_world, set_deepspeed_log_level
from dsparse.train.host import tune_host

GOALS = {1: 1.0, 16: 0.2}
"""Ordinary steps that an update may cost, by block."""
_EVERY = 2
_VERIFIED = 2
"""Updates at the start that also check the invariant through DeepSpeed's public calls, by design."""


def main() -> None:
    """Measures and prints a table in Markdown."""
    arguments = parse()
    tuned = tune_host(1)
    set_deepspeed_log_level("error")
    init_world()
    host = f"{torch.get_num_threads()} threads, fp32, {tuned}"
    print(f"BERT-{arguments.size}, {arguments.batch} x {SEQ_LENGTH} tokens, sparsity {arguments.sparsity:g},", end=" ")
    print(f"{arguments.layout}, {arguments.steps} updates, {host}\n")
    print("| block | step, ms | update, ms | update / step | goal | |\n|---|---|---|---|---|---|")
    rows = []
    for block in arguments.blocks:
        rows.append(measure(arguments, block))
        print(line(rows[-1]), flush=True)
    if arguments.json is not None:
        figures = {"size": arguments.size, "batch": arguments.batch, "host": host, "rows": rows}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, size="base", batch=16, steps=5)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--blocks", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--layout", choices=["packed", "masked"], default="packed")
    parser.add_argument("--split", action="store_true", help="which operations the last update spends its time in")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, block: int) -> dict[str, Any]:
    """Medians of updates and of the steps between them."""
    num_updates = _VERIFIED + arguments.steps
    settings = {
        "sparsity": arguments.sparsity,
        "block_size": block,
        "layout": arguments.layout,
        "total_steps": 8 * _EVERY * num_updates,  # so the drop fraction stays near its start
        "updates": 8 * num_updates,
        "verify_every": 0,
    }
    if arguments.layout == "packed":
        settings["kernel"] = arguments.kernel
    engine = make_engine(arguments.size, arguments.batch, settings)
    run = EngineRun(engine)
    step_s, update_s = [], []
    while engine.num_pattern_updates < num_updates:
        before = engine.num_pattern_updates
        is_last = arguments.split and before == num_updates - 1
        with profiled() if is_last else nullcontext():
            taken_s = timed(run.step, random_batch(engine.global_steps, arguments.batch))
        if engine.num_pattern_updates > before:
            update_s.append(engine.last_update.duration_s)
        elif before >= _VERIFIED:
            step_s.append(taken_s)
    engine.destroy()
    settle()
    step_ms, update_ms = 1e3 * statistics.median(step_s), 1e3 * statistics.median(update_s[_VERIFIED:])
    return {"block": block, "step_ms": step_ms, "update_ms": update_ms, "ratio": update_ms / step_ms,
            "goal": GOALS.get(block) if arguments.layout == "packed" else None}  # fmt: skip


def line(row: Mapping[str, Any]) -> str:
    """A row in Markdown."""
    block, ratio = row["block"], row["ratio"]
    cells = f"| {block}×{block} | {row['step_ms']:.0f} | {row['update_ms']:.0f} | {ratio:.2f}"
    return f"{cells} {verdict(ratio, row['goal'], at_least=False)}"


@contextmanager
def profiled() -> Iterator[None]:
    """Prints the dearest operations of what runs inside; its figures are not for the table."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        yield
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))


if __name__ == "__main__":
    main()
