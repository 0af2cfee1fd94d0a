"""Draws how the pattern of one weight moved over a run, from the patterns in its checkpoints.

    python tools/draw_patterns.py runs/demo docs/img/patterns.png

Dark blocks are active at that step, light ones were at some time before, white ones never.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap

from dsparse.checkpoint.patterns import load_state
from dsparse.engine.config import parse_sparsity_block
from dsparse.engine.initialize import initial_patterns
from dsparse.errors import UserError, exit_on_user_error
from dsparse.pattern.history import PatternHistory

WEIGHT = "bert.encoder.layer.0.intermediate.dense.weight"
COLOURS = ListedColormap(["#f4f4f4", "#a8c8e8", "#0b3c6f"])


def main() -> None:
    """The program; exits with 2 if the run has no checkpoints with patterns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a sparse run")
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--weight", default=WEIGHT, help="parameter name (default: %(default)s)")
    arguments = parser.parse_args()
    with exit_on_user_error():
        draw(histories_of(arguments.run, arguments.weight), arguments.out, arguments.weight)


def histories_of(run: Path, weight: str) -> dict[int, PatternHistory]:
    """Pattern and past of a weight by step: at the start, and at every checkpoint."""
    folders = {int(folder.name.removeprefix("step")): folder for folder in run.glob("checkpoints/step*")}
    if not folders:
        raise UserError(f"Expected a run with checkpoints. Got {run}, without any.")
    found = {step: load_state(folders[step]).histories for step in sorted(folders)}
    first = next(iter(found.values()))
    if weight not in first:
        raise UserError(f"Expected a sparse weight of the run, like {next(iter(first))!r}. Got {weight!r}.")
    record = json.loads((run / "run.json").read_text())["deepspeed"]
    config = parse_sparsity_block(record["dynamic_sparsity"], record.get("scheduler"))
    start = initial_patterns({name: history.pattern.shape for name, history in first.items()}, config)
    return {0: PatternHistory.begin(start[weight]), **{step: one[weight] for step, one in found.items()}}


def draw(histories: dict[int, PatternHistory], path: Path, weight: str) -> None:
    """One panel a step, side by side."""
    rows, cols = next(iter(histories.values())).pattern.grid
    figure, axes = plt.subplots(
        1, len(histories), figsize=(10, 10 * rows / cols / len(histories) + 0.9), layout="constrained", squeeze=False
    )
    for axis, (step, history) in zip(axes[0], histories.items(), strict=True):
        active, ever = history.pattern.block_mask().numpy(), history.ever_active.view(rows, cols).numpy()
        axis.imshow(np.where(active, 2, np.where(ever, 1, 0)), cmap=COLOURS, vmin=0, vmax=2, interpolation="nearest")
        axis.set_title(f"step {step}\nDOF {history.coverage:.0%}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    block, shape = histories[0].pattern.block, histories[0].pattern.shape
    figure.suptitle(f"{weight}, {shape[0]}×{shape[1]} in blocks of {block}×{block}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
