"""Saved on W ranks at ZeRO stage Z, resumed on W' at Z': the whole table, printed as markdown.

    python benchmarks/elastic_resume.py                     all of 4 x 4 ranks, 4 x 4 stages, fp32: about ten minutes
    python benchmarks/elastic_resume.py --ranks 1 2         fewer

Each of the 256 cells loads the checkpoint into an engine with other initial weights and compares: weights, masters,
moments, patterns, coverage, counters and learning rate to the bit; then five more steps with two pattern updates,
whose patterns must be equal and whose losses must agree to 1e-5. "exact" means all of that.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

# tests/ and dsparse/ are this checkout's.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.progress import Progress

from tests.distributed.cells import Cell
from tests.distributed.elastic import resume, save
from tests.distributed.rank_pool import Failure, RankPool

_TOLERANCE = 1e-5


def main() -> None:
    """Prints the table; exits with 1 if any cell is not exact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4], help="numbers of ranks")
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3], help="ZeRO stages")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    arguments = parser.parse_args()
    pools = {ranks: RankPool(ranks) for ranks in arguments.ranks}
    ways = [(ranks, stage) for ranks in arguments.ranks for stage in arguments.stages]
    table: dict[tuple[tuple[int, int], tuple[int, int]], str] = {}
    try:
        with tempfile.TemporaryDirectory() as root, Progress(disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("pairs", total=len(ways) ** 2)
            for before in ways:
                folder = f"{root}/{before[0]}_{before[1]}"
                saved = pools[before[0]].run(save, Cell(before[1], arguments.precision), folder)[0]
                for after in ways:
                    results = pools[after[0]].try_run(resume, Cell(after[1], arguments.precision), folder)
                    table[before, after] = verdict(saved, results)
                    progress.advance(task)
    finally:
        for pool in pools.values():
            pool.close()
    print(as_markdown(ways, table, arguments.precision))
    sys.exit(any(cell != "exact" for cell in table.values()))


def verdict(saved: Any, results: list[Any]) -> str:
    """ "exact", or what differs."""
    state, rest = saved
    for result in results:
        if isinstance(result, Failure):
            return f"{result.kind}: {result.message}"
        then, later, _ = result
        odd = [key for key in state if then[key] != state[key]]
        if odd:
            return f"differs in {odd}"
        if later["patterns"] != rest["patterns"]:
            return "other patterns later"
        if any(abs(a - b) > _TOLERANCE * abs(b) for a, b in zip(later["losses"], rest["losses"], strict=True)):
            return "other losses later"
    return "exact"


def as_markdown(ways: list[tuple[int, int]], table: dict[Any, str], precision: str) -> str:
    """A row for each way to save: how many of the ways to resume are exact, and what the others are."""
    lines = [
        f"{precision}, toy model of three linear layers",
        "",
        "| saved on | resumed exactly, of all ranks and stages | others |",
        "|---|---|---|",
    ]
    for before in ways:
        cells = {after: table[before, after] for after in ways}
        exact = sum(cell == "exact" for cell in cells.values())
        odd = [f"{w} ranks stage {z}: {cell}" for (w, z), cell in cells.items() if cell != "exact"]
        lines.append(f"| {before[0]} ranks, stage {before[1]} | {exact} of {len(cells)} | {'; '.join(odd) or 'none'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
