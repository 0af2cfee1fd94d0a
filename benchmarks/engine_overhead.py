"""What dynamic sparsity in the masked layout costs on top of DeepSpeed: `python benchmarks/engine_overhead.py`.

The same BERT runs under plain DeepSpeed (dense) and under `SparseEngine` in one process, a step of each in turn on the
same batch, so that whatever the machine does meanwhile happens to both. What is printed are medians, and the median
over pairs of the ratio sparse / dense. The masked layout computes as much as dense: this measures bookkeeping, not
speed-up.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch

import dsparse
from dsparse.engine.world import init_world, set_deepspeed_log_level
from dsparse.models.bert import ENCODER_MODULES, build_bert
from dsparse.train.host import tune_host

VOCAB_SIZE = 8192


def main() -> None:
    """Measures and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--stage", type=int, default=1, help="ZeRO stage")
    parser.add_argument("--batch", type=int, default=16, help="sequences of 128 tokens")
    parser.add_argument("--steps", type=int, default=40, help="counted steps of each engine")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 4, 16])
    arguments = parser.parse_args()
    host = tune_host(1)  # as pretrain.py does
    set_deepspeed_log_level("error")
    init_world()
    print(f"BERT-{arguments.preset}, {arguments.batch} x 128 tokens, ZeRO {arguments.stage}, fp32, one rank,", end=" ")
    print(f"{torch.get_num_threads()} threads, sparsity 0.9, {arguments.steps} pairs of steps,")
    print(f"{host}\n")
    print("| block | dense step, ms | sparse step, ms | sparse / dense | update, ms | update / sparse step |")
    print("|---|---|---|---|---|---|")
    for block in (None, *arguments.blocks):
        print(measure(arguments, block), flush=True)


def measure(arguments: argparse.Namespace, block: int | None) -> str:
    """One row of the table; without a block two dense engines, whose ratio says how far the others can be trusted."""
    dense, sparse = make_engine(arguments, None), make_engine(arguments, block)
    run_step(dense, 0, arguments.batch)
    run_step(sparse, 0, arguments.batch)
    dense_s, sparse_s, update_s = [], [], []
    for step in range(1, arguments.steps + 1):
        before = num_updates(sparse)
        # Who goes first alternates: the second of a pair finds warmer caches.
        order = (dense, sparse) if step % 2 else (sparse, dense)
        seconds = {id(engine): timed(run_step, engine, step, arguments.batch) for engine in order}
        if num_updates(sparse) > before:
            # The first two updates also check the invariant through DeepSpeed's public calls, by design.
            if num_updates(sparse) > 2:
                update_s.append(sparse.last_update.duration_s)
            continue
        dense_s.append(seconds[id(dense)])
        sparse_s.append(seconds[id(sparse)])
    ratio = statistics.median(s / d for s, d in zip(sparse_s, dense_s, strict=True))
    dense_ms, step_ms = 1e3 * statistics.median(dense_s), 1e3 * statistics.median(sparse_s)
    dense.destroy()
    sparse.destroy()
    start = f"| {'dense against dense' if block is None else f'{block}×{block}'} | {dense_ms:.0f} | {step_ms:.0f} "
    if not update_s:
        return f"{start}| {ratio:.3f} | | |"
    update_ms = 1e3 * statistics.median(update_s)
    return f"{start}| {ratio:.3f} | {update_ms:.0f} | {update_ms / step_ms:.2f} |"


def num_updates(engine: Any) -> int:
    """Pattern updates so far, 0 of a dense engine."""
    return int(getattr(engine, "num_pattern_updates", 0))


def make_engine(arguments: argparse.Namespace, block: int | None) -> Any:
    """A dense engine, or a sparse one."""
    model = build_bert(arguments.preset, vocab_size=VOCAB_SIZE, dropout=0.0, seed=0)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": arguments.batch,
        "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "weight_decay": 0.01, "torch_adam": True}},
        "zero_optimization": {"stage": arguments.stage},
        "steps_per_print": 10**9,
    }
    if block is not None:
        config["dynamic_sparsity"] = {
            "sparsity": 0.9,
            "block_size": block,
            "modules": ENCODER_MODULES,
            "total_steps": 4 * arguments.steps,  # so the drop fraction stays near its start
            "updates": arguments.steps,
            "verify_every": 0,
        }
    return dsparse.initialize(model=model, model_parameters=model.parameters(), config=config)[0]


def run_step(engine: Any, step: int, batch: int) -> None:
    """Forward, backward and optimizer on random tokens, a function of the step."""
    random = torch.Generator().manual_seed(step)
    ids = torch.randint(5, VOCAB_SIZE, (batch, 128), generator=random)
    labels = torch.where(torch.rand(ids.shape, generator=random) < 0.15, ids, -100)
    loss = engine(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        token_type_ids=torch.zeros_like(ids),
        labels=labels,
        next_sentence_label=torch.randint(2, (batch,), generator=random),
    ).loss
    engine.backward(loss)
    engine.step()


def timed(function: Callable[..., None], *args: Any) -> float:
    """Seconds a call takes."""
    t0_s = time.perf_counter()
    function(*args)
    return time.perf_counter() - t0_s


if __name__ == "__main__":
    main()
