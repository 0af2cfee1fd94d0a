"""What a run writes down: its record (`metrics`), from which everything else can be drawn, and TensorBoard.

TensorBoard is reached through DeepSpeed's own monitor. Only rank 0 writes; every rank may call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dsparse.engine.world import rank
from dsparse.train.evaluate import HeldOutLosses
from dsparse.train.metrics import Row, append_row
from dsparse.train.pictures import picture_of_blocks

MAX_PICTURED_WEIGHTS = 4

# Column of a row to its name in TensorBoard. What is not here is in metrics.jsonl alone.
_TAGS: dict[str, dict[str, str]] = {
    "train": {
        "loss": "loss/total",
        "mlm_loss": "loss/mlm",
        "nsp_loss": "loss/nsp",
        "learning_rate": "optimizer/learning_rate",
        "gradient_norm": "optimizer/gradient_norm",
        "tokens_per_s": "speed/tokens_per_s",
        "flops_per_s": "speed/flops_per_s",
        "flops": "cost/flops",
        "num_tokens": "cost/tokens",
        "peak_memory_gib": "memory/peak_host_gib",
        "peak_device_memory_gib": "memory/peak_device_gib",
        "sparsity": "sparsity/all",
        "dof_covered": "pattern/dof_covered",
        "num_updates": "pattern/num_updates",
    },
    "heldout": {
        "mlm_loss": "heldout/mlm_loss",
        "nsp_loss": "heldout/nsp_loss",
        "mlm_accuracy": "heldout/mlm_accuracy",
        "nsp_accuracy": "heldout/nsp_accuracy",
    },
    "update": {
        "turnover": "pattern/turnover",
        "removed_new_ratio": "pattern/removed_new_ratio",
        "drop_fraction": "pattern/drop_fraction",
        "duration_s": "pattern/update_duration_s",
    },
}
_WEIGHT_TAGS = {"sparsity": "sparsity", "turnover": "turnover", "dof_covered": "dof_covered"}


class Monitor:
    """Writes rows as they come."""

    def __init__(self, engine: Any, output: Path, *, pattern_every: int) -> None:
        """Nothing is written before the first row.

        Args:
            engine: whose DeepSpeed monitor leads to TensorBoard.
            output: folder of the run; exists.
            pattern_every: pattern updates between two pictures; 0 draws none.
        """
        self._engine = engine
        self._pattern_every = pattern_every
        self._writes = rank() == 0
        self._output = output

    def train(self, step: int, row: Mapping[str, Any]) -> None:
        """A training step."""
        self._write("train", step, dict(row))

    def heldout(self, step: int, losses: HeldOutLosses) -> None:
        """An evaluation."""
        self._write("heldout", step, asdict(losses))

    def update(self, step: int) -> None:
        """The pattern update that the engine has just made at this step, and its picture when one is due."""
        report = self._engine.last_update
        weights = {
            name: {
                "num_moved": weight.num_moved,
                "turnover": weight.turnover,
                "removed_new_ratio": weight.removed_new_ratio,
                "dof_covered": weight.coverage,
                "sparsity": 1 - weight.density,
            }
            for name, weight in report.weights.items()
        }
        ratios = [w["removed_new_ratio"] for w in weights.values() if w["removed_new_ratio"] is not None]
        row = {
            "update": report.update,
            "drop_fraction": report.drop_fraction,
            "duration_s": report.duration_s,
            "turnover": mean_of_blocks(self._engine, {name: w["turnover"] for name, w in weights.items()}, active=True),
            "removed_new_ratio": sum(ratios) / len(ratios) if ratios else None,
            "dof_covered": mean_of_blocks(self._engine, self._engine.coverage),
            "weights": weights,
        }
        self._write("update", step, row)
        events = [
            (f"{tag}/{name}", weight[key], step)
            for name, weight in weights.items()
            for key, tag in _WEIGHT_TAGS.items()
        ]
        self._engine.monitor.write_events(events)
        if self._pattern_every and (report.update - 1) % self._pattern_every == 0:
            self.pictures(step)

    def pictures(self, step: int) -> None:
        """Pictures of the patterns in force, and of all blocks that were ever active, for the first few weights."""
        writer = self._summary_writer()
        if writer is None or not self._pattern_every:
            return
        for name, history in list(getattr(self._engine, "histories", {}).items())[:MAX_PICTURED_WEIGHTS]:
            grid = history.pattern.grid
            writer.add_image(f"active/{name}", picture_of_blocks(history.pattern.block_mask()), step)
            writer.add_image(f"ever_active/{name}", picture_of_blocks(history.ever_active.view(grid)), step)
        writer.flush()

    def _write(self, kind: str, step: int, row: Row) -> None:
        if not self._writes:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        append_row(self._output, {"kind": kind, "step": step, **row, "time": time})
        events = [(tag, row[key], step) for key, tag in _TAGS[kind].items() if row.get(key) is not None]
        self._engine.monitor.write_events(events)

    def _summary_writer(self) -> Any:
        tensorboard = getattr(self._engine.monitor, "tb_monitor", None)
        return tensorboard.summary_writer if tensorboard is not None else None


def mean_of_blocks(engine: Any, values: Mapping[str, float], *, active: bool = False) -> float | None:
    """Mean of one number per weight, each weight counting by its elements, all or active; None without patterns."""
    sizes = {
        name: pattern.shape[0] * pattern.shape[1] * (pattern.density if active else 1.0)
        for name, pattern in getattr(engine, "patterns", {}).items()
    }
    return sum(sizes[name] * values[name] for name in sizes) / sum(sizes.values()) if sizes else None
