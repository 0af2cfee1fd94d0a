"""Runs of all kinds, right and broken, through the whole program: `python benchmarks/fuzz_configs.py --examples 500`.

Each is started as a process, or two ranks, and must either train its steps and keep everything outside its patterns at
0, or be refused in one line with nothing written. Prints a table in Markdown, and every finding with its files; the
exit code is 1 if there is one. Ctrl-C ends it early with what was seen so far.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(sys.prefix, "torch_extensions"))

from benchmarks.fuzz.examples import drawn
from benchmarks.fuzz.judge import FINDING, Judge, Verdict
from tests.data.store_fixture import make_small_store


def main() -> None:
    """Runs the examples and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="another number draws other examples")
    arguments = parser.parse_args()
    seen: list[Verdict] = []
    t0_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dsparse_fuzz_") as workplace:
        store = make_small_store(Path(workplace) / "made")
        with Judge(Path(workplace), store) as judge:
            try:
                run_all(judge, arguments.examples, arguments.seed, seen)
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
    print(f"seed {arguments.seed}, {len(seen)} examples, {time.monotonic() - t0_s:.0f} s\n")
    print(table(seen))
    sys.exit(any(verdict.kind == FINDING for verdict in seen))


def run_all(judge: Judge, num_examples: int, number: int, seen: list[Verdict]) -> None:
    """Draws and runs the examples one after another, appending to `seen`."""
    for example in itertools.islice(drawn(number), num_examples):
        verdict = judge.judge(example)
        seen.append(verdict)
        words = f"[{len(seen)}/{num_examples}] {verdict.seconds:.1f} s {verdict.kind}: {verdict.detail}"
        print(" ".join(words.split())[:200], file=sys.stderr, flush=True)
        if verdict.kind == FINDING:
            print(f"--- finding\n{example.shown()}\n{verdict.detail}\n", flush=True)


def table(verdicts: list[Verdict]) -> str:
    """How many examples ended how, in Markdown."""
    counts = collections.Counter(verdict.kind for verdict in verdicts)
    slowest = {kind: max(v.seconds for v in verdicts if v.kind == kind) for kind in counts}
    rows = [
        f"| {kind} | {counts[kind]} | {slowest[kind]:.1f} |" for kind in sorted(counts, key=lambda k: (k == FINDING, k))
    ]
    return "\n".join(["| ended | examples | slowest, s |", "|---|---|---|", *rows])


if __name__ == "__main__":
    main()
