"""What a checkpoint is of, in words, from its manifest and its patterns alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dsparse.checkpoint.manifest import Manifest
from dsparse.checkpoint.patterns import FILE_NAME, load_state


def summarize(folder: Path) -> dict[str, Any]:
    """Plain values: steps, who saved it, patterns by weight, data position, versions.

    Raises:
        CheckpointError: there is no checkpoint, or its manifest or patterns are damaged.
    """
    manifest = Manifest.read(folder)
    about = manifest.about
    manifest.told("tag", "global_steps", "skipped_steps", "saved_at", "layout", "versions")
    client = _part(about, "client_state")
    run = _part(client, "dsparse_run")
    summary: dict[str, Any] = {
        "tag": about["tag"],
        "steps": about["global_steps"],
        "skipped_steps": about["skipped_steps"],
        "saved_at": about["saved_at"],
        "layout": about["layout"],
        "data_position": _part(run, "loader").get("position"),
        "tokens": run.get("num_tokens"),
        "tokenizer_sha256": _part(_part(client, "dsparse_record"), "store").get("tokenizer.json"),
        "versions": about["versions"],
        "num_files": len(manifest.files),
        "num_bytes": sum(record.num_bytes for record in manifest.files.values()),
        "patterns": None,
    }
    if FILE_NAME in manifest.files:
        state = load_state(folder)
        summary["num_pattern_updates"] = state.num_updates
        summary["dynamic_sparsity"] = dict(state.config)
        summary["patterns"] = {
            name: {
                "shape": list(history.pattern.shape),
                "block": history.pattern.block,
                "active_blocks": history.pattern.num_active,
                "density": history.pattern.density,
                "coverage": history.coverage,
            }
            for name, history in state.histories.items()
        }
    return summary


def _part(values: Any, key: str) -> dict[str, Any]:
    part = values.get(key) if isinstance(values, dict) else None
    return part if isinstance(part, dict) else {}


def as_text(summary: dict[str, Any]) -> str:
    """For people: a line for each fact, a row for each weight."""
    layout = summary["layout"]
    if "world_size" in layout:
        by = f"{layout['world_size']} ranks at ZeRO stage {layout['zero_stage']}, {layout['precision']}"
    else:
        by = f"a conversion, for any ranks and ZeRO stage, {layout['precision']}"
    facts = {
        "checkpoint": summary["tag"],
        "steps": f"{summary['steps']}, {summary['skipped_steps']} of them not applied",
        "saved": f"{summary['saved_at']} by {by}",
        "size": f"{summary['num_bytes'] / 2**20:.1f} MiB in {summary['num_files']} files",
        "data position": _or_none(summary["data_position"], "samples"),
        "tokens": _or_none(summary["tokens"], "trained on, padding included"),
        "tokenizer": summary["tokenizer_sha256"] or "not said",
        "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
    }
    lines = [f"{name:<15}{value}" for name, value in facts.items()]
    patterns = summary["patterns"]
    if patterns is None:
        return "\n".join([*lines, "patterns       none: a dense run"])
    lines.append(f"{'patterns':<15}{len(patterns)} weights, {summary['num_pattern_updates']} updates")
    width = max(map(len, patterns), default=0)
    lines.append(f"\n{'weight':<{width}}  {'shape':>12}  {'block':>5}  {'active':>9}  {'density':>7}  {'covered':>7}")
    for name, one in patterns.items():
        shape = "x".join(map(str, one["shape"]))
        lines.append(
            f"{name:<{width}}  {shape:>12}  {one['block']:>5}  {one['active_blocks']:>9,}  {one['density']:>7.4f}  "
            f"{one['coverage']:>7.4f}"
        )
    return "\n".join(lines)


def _or_none(value: int | None, unit: str) -> str:
    return "not said" if value is None else f"{value:,} {unit}"
