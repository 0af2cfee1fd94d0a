"""How fast batches are made, against how fast training takes them: `python benchmarks/loader.py`.

Batches of whole words masked, from English of the standard library or from `--store`: made in this process, and by one
worker process that hands them over. Beside them, on the same batches, BERT-Mini takes training steps, dense and with
its encoder packed, so that every figure is of the same machine in the same minutes; all in turn, medians. Tokens are
places of a sequence, padding included.

Then a store of 1e9 tokens: how long opening it takes, with its files in memory and not, and what memory that and a
thousand batches take which no file backs. Its tokens are holes in a file; its index, 600 MB, is real.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import numpy as np
from torch import Tensor, nn

from benchmarks.kernels import describe_machine
from benchmarks.training import BareRun, pack_encoder, settle, timed, verdict
from dsparse.data.loader import MicroBatches, PretrainingData
from dsparse.models.bert import build_bert
from dsparse.train.host import tune_host
from tests.data.huge import anonymous_bytes, write_huge_store
from tests.data.store_fixture import make_small_store

GOAL = 10
"""Times as many tokens as the faster of the two trainings takes."""
SEQ_LENGTHS = [128, 512]
SPARSITY, BLOCK = 0.9, 16
LOADER, WORKER = "loader, in process", "loader, one worker"
BATCHES_A_ROUND, AHEAD, WARM_UP = 50, 4, 2
NUM_DOCUMENTS, HUGE = 2_000_000, {"sentences_per_document": 25, "tokens_per_sentence": 20}
MIB = 2**20

Batches = Iterator[dict[str, Tensor]]


def main() -> None:
    """Measures and prints tables in Markdown."""
    arguments = parse()
    tuned = tune_host(1)  # before torch allocates anything, as pretrain.py does
    machine = describe_machine("cpu", None)
    print(f"{machine}, {arguments.batch} sequences a batch, {arguments.rounds} rounds, {tuned}\n")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store = arguments.store or make_small_store(Path(folder) / "store")
        print("| tokens in a sequence | what | tokens/s | batch, ms | loader / training | goal | |")
        print("|---|---|---|---|---|---|---|")
        rows: list[dict[str, Any]] = []
        for seq_length in SEQ_LENGTHS:
            measured = measure(arguments, store, seq_length)
            rows += measured
            print("\n".join(map(line, measured)), flush=True)
        print(
            "\n| 1e9 tokens | opened, s | files not in memory, s | memory, MiB | after 1000 batches, MiB | tokens/s |"
        )
        print("|---|---|---|---|---|---|")
        path = write_huge_store(Path(folder) / "huge", num_documents=arguments.documents, **HUGE)
        # In processes of their own, whose allocators have nothing to give that was freed before.
        huge = [in_new_process(measure_huge, path, seq_length, arguments.batch) for seq_length in SEQ_LENGTHS]
        print("\n".join(map(huge_line, huge)), flush=True)
    if arguments.json is not None:
        figures = {"machine": machine, "batch": arguments.batch, "host": tuned, "rows": rows, "huge": huge}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="a token store; none makes a small one of real text")
    parser.add_argument("--batch", type=int, default=32, help="sequences of a micro-batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each, in turn (default: %(default)s)")
    parser.add_argument("--size", default="mini", help="the BERT that is trained (default: %(default)s)")
    parser.add_argument(
        "--documents",
        type=int,
        default=NUM_DOCUMENTS,
        help="of 500 tokens in the large store (default: 1e9 tokens)",
    )
    parser.add_argument("--folder", type=Path, help="where to write the large store, 600 MB (default: the system's)")
    parser.add_argument("--json", type=Path, help="file for the figures, besides the table")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, store: Path, seq_length: int) -> list[dict[str, Any]]:
    """A row for each way of making batches and of using them up."""
    data = PretrainingData(store, seq_length=seq_length)
    made, handed_over = (batches(data, arguments.batch, num_workers=number) for number in (0, 1))
    some = [next(made) for _ in range(WARM_UP + arguments.rounds)]
    trainings = {
        f"{arguments.size}, dense": BareRun(build(arguments.size, data)),
        f"{arguments.size}, packed": BareRun(pack_encoder(build(arguments.size, data), SPARSITY, BLOCK)),
    }
    seconds: dict[str, list[float]] = {LOADER: [], WORKER: [], **{name: [] for name in trainings}}
    for number, batch in enumerate(some):
        taken_s = {LOADER: timed(take, made, BATCHES_A_ROUND) / BATCHES_A_ROUND}
        take(handed_over, AHEAD)  # what the worker has made while the others were measured
        taken_s[WORKER] = timed(take, handed_over, BATCHES_A_ROUND) / BATCHES_A_ROUND
        taken_s |= {name: timed(training.step, batch) for name, training in trainings.items()}
        if number >= WARM_UP:
            for name, value in taken_s.items():
                seconds[name].append(value)
    trainings.clear()
    settle()
    return rows_of(seconds, seq_length, arguments.batch * seq_length)


def build(size: str, data: PretrainingData) -> nn.Module:
    """A dense BERT that takes the batches of a store."""
    return build_bert(size, vocab_size=data.vocab_size, max_seq_length=data.seq_length, dropout=0.0, seed=0)


def batches(data: PretrainingData, batch: int, *, num_workers: int) -> Batches:
    """As a run gets them."""
    made = MicroBatches(data, micro_batch_size=batch, rank=0, world_size=1, num_workers=num_workers)
    return (one for one, _ in made)


def take(some: Batches, num: int) -> None:
    """Makes batches and forgets them."""
    for _ in range(num):
        next(some)


def rows_of(seconds: dict[str, list[float]], seq_length: int, num_tokens: int) -> list[dict[str, Any]]:
    """Medians, and loaders against the faster training."""
    rate = {name: num_tokens / statistics.median(taken_s) for name, taken_s in seconds.items()}
    trained = max(value for name, value in rate.items() if name not in (LOADER, WORKER))
    return [
        {
            "seq_length": seq_length,
            "what": name,
            "tokens_per_s": value,
            "batch_ms": 1e3 * num_tokens / value,
            "times_training": value / trained if name in (LOADER, WORKER) else None,
        }
        for name, value in rate.items()
    ]


def line(row: dict[str, Any]) -> str:
    """A row in Markdown."""
    ratio = row["times_training"]
    cells = f"| {row['seq_length']} | {row['what']} | {row['tokens_per_s']:,.0f} | {row['batch_ms']:.2f} "
    return cells + ("| | | |" if ratio is None else f"| {ratio:.0f} {verdict(ratio, GOAL, at_least=True)}")


def in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    """What the function returns."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def measure_huge(store: Path, seq_length: int, batch: int) -> dict[str, Any]:
    """Opening a large store, and what it takes."""
    small = PretrainingData(store, split="heldout", seq_length=seq_length)
    small.batch(np.arange(batch))  # what the first batch of any store allocates
    before = anonymous_bytes()
    forget(store)
    cold_s = timed(PretrainingData, store, seq_length=seq_length)
    t0_s = time.perf_counter()
    data = PretrainingData(store, seq_length=seq_length)
    opened_s = time.perf_counter() - t0_s
    opened = anonymous_bytes() - before
    some = batches(data, batch, num_workers=0)
    t0_s = time.perf_counter()
    take(some, 1000)
    taken_s = time.perf_counter() - t0_s
    return {
        "seq_length": seq_length,
        "num_tokens": data.manifest.splits["train"].num_tokens,
        "opened_s": opened_s,
        "cold_s": cold_s,
        "opened_mib": opened / MIB,
        "after_mib": (anonymous_bytes() - before) / MIB,
        "tokens_per_s": 1000 * batch * seq_length / taken_s,
    }


def forget(store: Path) -> None:
    """Has the system drop from memory what it holds of the files."""
    for path in store.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def huge_line(row: dict[str, Any]) -> str:
    """A row in Markdown."""
    return (
        f"| sequences of {row['seq_length']} | {row['opened_s']:.2f} | {row['cold_s']:.2f} | {row['opened_mib']:.1f} "
        f"| {row['after_mib']:.1f} | {row['tokens_per_s']:,.0f} |"
    )


if __name__ == "__main__":
    main()
