"""The matrix of DeepSpeed settings, each cell trained on two real ranks and looked at after every step.

`python -m tests.distributed.matrix` prints the table of `docs/zero-matrix.md`.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch

from tests.distributed.cells import (
    STEPS,
    Batches,
    Cell,
    allow_fp16,
    backward,
    full_gradients,
    full_states,
    make_engine,
    pattern_numbers,
)
from tests.distributed.rank_pool import Failure, RankPool

PRECISIONS = ("fp32", "bf16", "fp16")
STAGES = (0, 1, 2, 3)

CELLS = [
    Cell(stage, precision, accumulation, clipping, offload)
    for precision, stage, accumulation, clipping, offload in itertools.product(
        PRECISIONS, STAGES, (1, 3), (False, True), (False, True)
    )
]
"""The whole product, with torch's AdamW."""

OPTIMIZER_CELLS = [
    Cell(stage, precision, 3, True, offload, optimizer)
    for optimizer, precision, stage, offload in itertools.product(
        ("DeepSpeed AdamW", "SGD momentum"), PRECISIONS, STAGES, (False, True)
    )
]
"""The other optimizers, with accumulation and clipping on."""

PACKED_CELLS = [replace(cell, layout="packed") for cell in CELLS + OPTIMIZER_CELLS]
"""All of them, in the packed layout."""


def run_cell(cell: Cell) -> dict[str, Any]:
    """Trains a cell for `STEPS` applied steps; says what was found wrong, and what was arrived at."""
    with allow_fp16():
        engine = make_engine(cell)
        try:
            return _train_and_look(engine, cell)
        finally:
            engine.destroy()


def _train_and_look(engine: Any, cell: Cell) -> dict[str, Any]:
    batches = Batches(cell.dtype)
    wrong: list[str] = []
    num_active = {name: pattern.num_active for name, pattern in engine.patterns.items()}
    losses = []
    for _ in range(10 * STEPS):  # fp16 skips steps until the loss scale fits
        if engine.num_applied_steps == STEPS:
            break
        masks_before = {name: pattern.mask() for name, pattern in engine.patterns.items()}
        updates_before = engine.num_pattern_updates
        losses.append(float(backward(engine, batches, cell.accumulation)))
        for name, gradient in full_gradients(engine).items():
            wrong += _nonzero_outside(name, "gradient", gradient, masks_before[name])
        engine.step()
        states = full_states(engine) if engine.num_applied_steps else {}
        for name, by_key in states.items():
            mask = engine.patterns[name].mask()
            grown = mask & ~masks_before[name]
            for key, tensor in by_key.items():
                wrong += _nonzero_outside(name, key, tensor, mask)
                if bool((tensor[grown] != 0).any()):
                    wrong.append(f"{key} of {name} not 0 where it was just grown")
            if not bool((by_key["weight"][mask & ~grown] != 0).any()):
                wrong.append(f"weight of {name} is 0 everywhere")
            if engine.num_pattern_updates > updates_before and not bool(grown.any()):
                wrong.append(f"{name} grew nothing at an update")
            if engine.patterns[name].num_active != num_active[name]:
                wrong.append(f"{name} changed its number of active blocks")
    engine.verify_sparsity()
    return {
        "wrong": wrong,
        "updates": engine.num_pattern_updates,
        "applied": engine.num_applied_steps,
        "patterns": pattern_numbers(engine),
        "losses": losses,
    }


def _nonzero_outside(name: str, key: str, tensor: torch.Tensor, mask: torch.Tensor) -> list[str]:
    num = int((tensor[~mask] != 0).sum())
    return [f"{num} of {key} of {name} not 0 outside the pattern"] if num else []


def verdict(results: list[Any]) -> str:
    """A cell's entry in the table."""
    if isinstance(results[0], Failure):
        return f"refused: {results[0].message}" if results[0].kind == "UserError" else f"fails: {results[0].message}"
    wrong = [problem for result in results for problem in result["wrong"]]
    return "holds" if not wrong else f"broken: {wrong[0]}"


def _print_table(pool: RankPool) -> None:
    print("| optimizer | precision | offload | accumulation | clipping | stage 0 | stage 1 | stage 2 | stage 3 |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows: dict[tuple[str, ...], list[str]] = {}
    for cell in CELLS + OPTIMIZER_CELLS:
        on_off = {False: "off", True: "on"}
        row = (
            cell.optimizer,
            cell.precision,
            on_off[cell.offload],
            str(cell.accumulation),
            on_off[cell.clipping],
        )
        masked, packed = (
            verdict(pool.try_run(run_cell, replace(cell, layout=layout))) for layout in ("masked", "packed")
        )
        rows.setdefault(row, []).append(masked if masked == packed else f"masked {masked}, packed {packed}")
    for row, entries in rows.items():
        print(f"| {' | '.join((*row, *entries))} |", flush=True)


if __name__ == "__main__":
    two_ranks = RankPool(2)
    _print_table(two_ranks)
    two_ranks.close()
