"""What came of a run: `summary.json`, a figure of loss, DOF and turnover over steps, and the lines that say so.

All of it is drawn from `metrics.jsonl` and `run.json` alone, so it can be made anew at any time, also while the run
goes on:

    python -m dsparse.train.report runs/tiny
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from dsparse.errors import UserError, exit_on_user_error
from dsparse.files import write_whole
from dsparse.train.checkpoint import RECORD
from dsparse.train.metrics import METRICS, Row, read_rows

SUMMARY = "summary.json"
FIGURE = "report.png"

# Okabe and Ito's palette: told apart by colour-blind readers too.
_BLUE, _ORANGE, _GREEN, _RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"


def write_report(run_dir: Path) -> str:
    """Writes summary and figure into the run's folder and returns the closing lines.

    Raises:
        UserError: the folder holds no run, or nothing was recorded yet.
    """
    rows = read_rows(run_dir)
    if not rows:
        raise UserError(f"Expected a run with metrics. Got {run_dir}, without rows in {METRICS}.")
    record = json.loads((run_dir / RECORD).read_text(encoding="utf-8"))
    summary = summarise(rows, record)
    write_whole(run_dir / SUMMARY, json.dumps(summary, indent=2) + "\n")
    draw(rows, run_dir / FIGURE, title=_title(summary))
    return closing_lines(summary, run_dir)


def summarise(rows: list[Row], record: dict[str, Any]) -> Row:
    """The run in a dozen numbers; None for what a run does not have (a dense one has no patterns)."""
    train = [row for row in rows if row["kind"] == "train"]
    heldout = [row for row in rows if row["kind"] == "heldout"]
    last: Row = train[-1] if train else {}
    first_eval: Row = heldout[0] if heldout and heldout[0]["step"] == 0 else {}
    # A run that was stopped early may have no evaluation at its end.
    last_eval: Row = heldout[-1] if heldout and heldout[-1]["step"] == max(row["step"] for row in rows) else {}
    return {
        "preset": record["run"]["model"]["preset"],
        "world_size": record["world_size"],
        "step": max(row["step"] for row in rows),
        "steps": record["run"]["train"]["steps"],
        "heldout_mlm_loss_start": first_eval.get("mlm_loss"),
        "heldout_mlm_loss_end": last_eval.get("mlm_loss"),
        "heldout_mlm_accuracy_end": last_eval.get("mlm_accuracy"),
        "heldout_nsp_loss_start": first_eval.get("nsp_loss"),
        "heldout_nsp_loss_end": last_eval.get("nsp_loss"),
        "train_loss_end": last.get("loss"),
        "sparsity": last.get("sparsity"),
        "dof_covered": last.get("dof_covered"),
        "num_updates": last.get("num_updates", 0),
        "flops": last.get("flops", 0.0),
        "num_tokens": last.get("num_tokens", 0),
        "wall_s": last.get("wall_s", 0.0),
        "peak_memory_gib": last.get("peak_memory_gib"),
    }


def closing_lines(summary: Row, run_dir: Path) -> str:
    """The summary for people, with where to look further."""
    minutes, seconds = divmod(round(summary["wall_s"]), 60)
    lines = {
        "held-out MLM loss": f"{_number(summary['heldout_mlm_loss_start'])} at start, "
        f"{_number(summary['heldout_mlm_loss_end'])} at the end",
        "held-out NSP loss": f"{_number(summary['heldout_nsp_loss_start'])} at start, "
        f"{_number(summary['heldout_nsp_loss_end'])} at the end",
        "sparsity": _share(summary["sparsity"]),
        "DOF covered": _share(summary["dof_covered"]),
        "pattern updates": f"{summary['num_updates']}",
        "FLOPs spent": f"{summary['flops']:.3g} in the encoder",
        "steps": f"{summary['step']} of {summary['steps']}, {summary['num_tokens']:,} tokens",
        "time": f"{minutes} min {seconds} s",
        "figure": str(run_dir / FIGURE),
    }
    if (run_dir / "tensorboard").is_dir():
        lines["TensorBoard"] = f"tensorboard --logdir {shlex.quote(str(run_dir / 'tensorboard'))}"
    return "\n".join(f"{name:<18} {text}" for name, text in lines.items())


def draw(rows: list[Row], path: Path, *, title: str) -> None:
    """Draws loss, DOF covered and turnover over steps as a PNG; a dense run has the loss alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("train", "heldout", "update")}
    is_sparse = any(row["dof_covered"] is not None for row in by_kind["train"])
    style = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
    with plt.rc_context(style):
        heights = [2.0, 1.0, 1.0] if is_sparse else [1.0]
        figure, axes = plt.subplots(
            len(heights), 1, sharex=True, squeeze=False, height_ratios=heights, layout="constrained",
            figsize=(8, 8 if is_sparse else 4.5),
        )  # fmt: skip
        figure.suptitle(title)
        _draw_losses(axes[0, 0], by_kind)
        if is_sparse:
            _draw_coverage(axes[1, 0], by_kind)
            _draw_turnover(axes[2, 0], by_kind)
        axes[-1, 0].set_xlabel("optimizer steps")
        axes[-1, 0].set_xlim(left=0)
        aside = path.with_name(f".{path.name}")
        figure.savefig(aside, dpi=150, format="png")
        plt.close(figure)
    aside.replace(path)


def main(argv: list[str] | None = None) -> None:
    """`python -m dsparse.train.report RUN`."""
    argv = sys.argv[1:] if argv is None else argv
    with exit_on_user_error():
        if len(argv) != 1 or argv[0].startswith("-"):
            raise UserError("Expected one folder of a run. Usage: python -m dsparse.train.report RUN")
        if not (Path(argv[0]) / RECORD).is_file():
            raise UserError(f"Expected a folder that pretrain.py wrote. Got {argv[0]}, without {RECORD}.")
        print(write_report(Path(argv[0])))


def _draw_losses(axes: Any, by_kind: dict[str, list[Row]]) -> None:
    for column, name, colour in (("mlm_loss", "masked words", _BLUE), ("nsp_loss", "next sentence", _ORANGE)):
        axes.plot(*_xy(by_kind["train"], column), color=colour, lw=1, alpha=0.55, label=f"{name}, training")
        axes.plot(*_xy(by_kind["heldout"], column), color=colour, marker="o", ms=5, lw=1.5, label=f"{name}, held out")
    axes.set_ylabel("loss (nats)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, ncols=2)


def _draw_coverage(axes: Any, by_kind: dict[str, list[Row]]) -> None:
    axes.plot(*_xy(by_kind["train"], "dof_covered"), color=_GREEN, label="DOF covered (ever active)")
    densities = [(row["step"], 1 - row["sparsity"]) for row in by_kind["train"] if row["sparsity"] is not None]
    axes.plot(*zip(*densities, strict=True), color="grey", ls="--", lw=1, label="active now")
    axes.set_ylabel("share of weights")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False)


def _draw_turnover(axes: Any, by_kind: dict[str, list[Row]]) -> None:
    updates = by_kind["update"]
    axes.plot(*_xy(updates, "turnover"), color=_BLUE, marker=".", lw=1, label="turnover (moved by an update)")
    axes.plot(*_xy(updates, "removed_new_ratio"), color=_RED, marker=".", lw=1, label="new ones removed again")
    axes.set_ylabel("share of blocks")
    axes.set_ylim(0, 1.4)  # room for the legend: the ratio may stay near 1
    axes.set_yticks([0, 0.5, 1])
    axes.legend(frameon=False, ncols=2, loc="upper right")


def _xy(rows: list[Row], column: str) -> tuple[list[int], list[float]]:
    known = [row for row in rows if row.get(column) is not None]
    return [row["step"] for row in known], [row[column] for row in known]


def _title(summary: Row) -> str:
    kind = f"{summary['sparsity']:.0%} sparse" if summary["sparsity"] is not None else "dense"
    return f"BERT-{summary['preset'].capitalize()}, {kind}: {summary['step']} steps, {summary['flops']:.3g} FLOPs"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "none (dense run)" if value is None else f"{value:.2%}"


if __name__ == "__main__":
    main()
