"""Twenty thousand steps with five hundred pattern updates: `python benchmarks/soak.py`.

Two ranks train a small sparse network under ZeRO. Printed are memory and step time by quarters of the run, updates, and
verifications of the invariant. Memory is the mean of each quarter, of all that a rank holds (RSS) and of its share of
what is no file (anonymous PSS, where Linux tells it): what leaks is there, and libraries are not. The first tenth of
the run, in which caches fill, counts for none. The exit code is 1 when the last quarter holds over 2 % more than the
first in either, when the invariant breaks, or when updates are missing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import socket
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("DS_ACCELERATOR", "cpu")

NUM_RANKS = 2
WIDTH, BLOCK, BATCH = 64, 4, 16
MOST_GROWTH = 0.02
WARM_UP = 0.1
"""Share of the run that memory is not looked at."""
NUM_SAMPLES = 400
"""Readings of memory over the run."""
NUM_VERIFICATIONS = 20


@dataclass(frozen=True)
class RankReport:
    """What a rank saw."""

    memory_mib: dict[str, list[float]]
    """By kind of memory, the mean of each quarter after the warm-up."""
    step_ms: list[float]
    """Median of each quarter of the run."""
    num_updates: int
    num_verified: int
    error: str | None = None
    """Why the rank stopped; None where it came to the end."""


def main() -> None:
    """Starts the ranks, waits and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--updates", type=int, default=500, help="pattern updates in these steps")
    parser.add_argument("--stage", type=int, default=1, choices=[0, 1, 2, 3], help="ZeRO stage")
    parser.add_argument("--json", type=Path, help="file for the figures, besides the table")
    arguments = parser.parse_args()
    t0_s = time.monotonic()
    reports = run_ranks(arguments.steps, arguments.updates, arguments.stage)
    seconds = time.monotonic() - t0_s
    problems = problems_of(reports, arguments.updates)
    what = f"{arguments.steps} steps, {arguments.updates} pattern updates, ZeRO {arguments.stage}, {NUM_RANKS} ranks"
    print(f"{what}, {seconds:.0f} s\n\n{table(reports)}\n")
    print("\n".join(problems) if problems else "memory is flat and the invariant holds")
    if arguments.json is not None:
        figures = {"seconds": seconds, "ranks": [asdict(report) for report in reports], "problems": problems}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(bool(problems))


def run_ranks(steps: int, updates: int, stage: int) -> list[RankReport]:
    """What each rank saw; a rank that dies gives a report that says so."""
    context = multiprocessing.get_context("spawn")
    port, ranks = _free_port(), []
    for rank in range(NUM_RANKS):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(theirs, rank, port, steps, updates, stage), daemon=True)
        process.start()
        theirs.close()
        ranks.append((process, ours))
    reports = []
    for process, connection in ranks:
        try:
            reports.append(connection.recv())
        except EOFError:
            process.join()
            reports.append(RankReport({}, [], 0, 0, f"died with exit code {process.exitcode}"))
    return reports


def problems_of(reports: list[RankReport], updates: int) -> list[str]:
    """What is not as it should be, one sentence each."""
    found = []
    for rank, report in enumerate(reports):
        if report.error is not None:
            found.append(f"rank {rank}: {report.error}")
            continue
        found += [
            f"rank {rank}: {kind} grew from {mib[0]:.1f} to {mib[-1]:.1f} MiB, expected at most {MOST_GROWTH:.0%}"
            for kind, mib in report.memory_mib.items()
            if mib[-1] > (1 + MOST_GROWTH) * mib[0]
        ]
        if report.num_updates != updates:
            found.append(f"rank {rank}: {report.num_updates} pattern updates, expected {updates}")
    return found


def table(reports: list[RankReport]) -> str:
    """The figures of the ranks in Markdown."""
    rows = ["| rank | what | by quarters of the run | last / first |", "|---|---|---|---|"]
    for rank, report in enumerate(reports):
        lines = {f"{kind}, MiB": mib for kind, mib in report.memory_mib.items()} | {"step, ms": report.step_ms}
        rows += [
            f"| {rank} | {what} | {', '.join(f'{value:.1f}' for value in values)} | {values[-1] / values[0]:.4f} |"
            for what, values in lines.items()
            if values
        ]
        rows.append(f"| {rank} | {report.num_updates} updates, verified {report.num_verified} times | | |")
    return "\n".join(rows)


def _rank(connection: Connection, rank: int, port: int, steps: int, updates: int, stage: int) -> None:
    local = str(rank)
    os.environ |= {"RANK": local, "LOCAL_RANK": local, "WORLD_SIZE": str(NUM_RANKS), "LOCAL_SIZE": str(NUM_RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.dup2(2, 1)  # DeepSpeed says on stdout what it has built, and the table is to be alone there
    try:
        report = soak(steps, updates, stage, shows_progress=rank == 0)
    except Exception as error:
        report = RankReport({}, [], 0, 0, f"{type(error).__name__}: {error}")
    connection.send(report)


def soak(steps: int, updates: int, stage: int, *, shows_progress: bool) -> RankReport:
    """Trains on this rank; a collective call."""
    import torch

    from dsparse.engine.world import close_world, init_world, set_deepspeed_log_level

    set_deepspeed_log_level("error")
    init_world()
    torch.manual_seed(0)
    engine = _engine(steps, updates, stage)
    random = torch.Generator().manual_seed(int(os.environ["RANK"]))
    memory: list[dict[str, float]] = []
    step_s = torch.zeros(steps, dtype=torch.float64)  # of one size from the first step on: it must not grow itself
    num_verified = 0
    for step in range(steps):
        t0_s = time.perf_counter()
        x_BW = torch.randn(BATCH, WIDTH, generator=random)
        loss = (engine(x_BW) - x_BW.roll(1, 1)).square().mean()
        engine.backward(loss)
        engine.step()
        step_s[step] = time.perf_counter() - t0_s
        if step >= WARM_UP * steps and step % max(1, steps // NUM_SAMPLES) == 0:
            memory.append(memory_mib())
        if (step + 1) % max(1, steps // NUM_VERIFICATIONS) == 0 or step + 1 == steps:
            engine.verify_sparsity()
            num_verified += 1
            if shows_progress:
                held = ", ".join(f"{kind} {mib:.1f} MiB" for kind, mib in memory_mib().items())
                print(f"step {step + 1} of {steps}, {held}", file=sys.stderr, flush=True)
    report = RankReport(
        memory_mib={kind: quarters([one[kind] for one in memory], statistics.fmean) for kind in memory[0]},
        step_ms=quarters((1e3 * step_s).tolist(), statistics.median),
        num_updates=engine.num_pattern_updates,
        num_verified=num_verified,
    )
    engine.destroy()
    close_world()
    return report


def _engine(steps: int, updates: int, stage: int) -> Any:
    """A small network of four sparse weights."""
    from torch import nn

    import dsparse

    model = nn.Sequential(
        nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH), nn.LayerNorm(WIDTH),
        nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH),
    )  # fmt: skip
    config = {
        "train_micro_batch_size_per_gpu": BATCH,
        "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.01, "torch_adam": True}},
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        # The pattern changes one time less than `updates` says.
        "dynamic_sparsity": {"block_size": BLOCK, "total_steps": steps, "updates": updates + 1},
    }
    return dsparse.initialize(model=model, model_parameters=model.parameters(), config=config)[0]


def memory_mib() -> dict[str, float]:
    """What this process holds now, by kind."""
    import psutil

    kinds = {"RSS": psutil.Process().memory_info().rss / 2**20}
    rollup = Path("/proc/self/smaps_rollup")
    if rollup.exists():
        fields = dict(line.split(":", 1) for line in rollup.read_text().splitlines()[1:])
        if "Pss_Anon" in fields:
            kinds["anonymous PSS"] = int(fields["Pss_Anon"].split()[0]) / 1024
    return kinds


def quarters(values: list[float], summary: Any) -> list[float]:
    """A summary of each quarter of the values."""
    bounds = [round(i * len(values) / 4) for i in range(5)]
    return [float(summary(values[a:b])) for a, b in itertools.pairwise(bounds)]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
