"""Kills a two-rank run again and again and resumes it: what is left must end in the bits of a run never killed.

    python benchmarks/kill_resume.py --kills 200            a few hours on two cores
    python benchmarks/kill_resume.py --kills 8 --seed 3

Every other kill is at a fault point inside a save, the points in turn; the others hit a rank or the launcher at a
moment drawn from the seed. After each kill the last checkpoint must be whole, every byte compared, and must not have
fewer steps than before. Ten kills make a run; each run ends uninterrupted and is compared with the straight one:
weights, masters, moments, patterns, data position and the record of losses.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

# tests/ and dsparse/ are this checkout's.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.data.store_fixture import make_small_store
from tests.e2e.kills import Kill, draw_kills, run_and_kill
from tests.e2e.lab import Lab, assert_same_end, find_free_port, results

_KILLS_A_RUN = 10
_STEPS = 60
_FLAGS = [f"--train.steps={_STEPS}", "--checkpoint.save_every=2", "--train.eval_every=0", "--checkpoint.keep=2"]


def main() -> None:
    """Prints a table of kills; exits with 1 at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began_s = time.monotonic()
    kills = draw_kills(arguments.kills, arguments.seed)
    done: Counter[str] = Counter()
    num_runs = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_small_store(root / "store")
        lab = Lab(root, find_free_port)
        lab.run("straight", *_FLAGS)
        while batch := list(islice(kills, _KILLS_A_RUN)):
            num_runs += 1
            output, steps = f"killed{num_runs}", 0
            for kill in batch:
                reached = run_and_kill(lab, output, kill, *_FLAGS)
                if reached < steps:
                    sys.exit(f"error: {kill}: the last checkpoint went from step {steps} back to {reached}")
                steps = reached
                done[_kind(kill)] += 1
                print(f"kill {sum(done.values())}: {kill}, step {steps}", file=sys.stderr, flush=True)
            lab.run(output, "--checkpoint.resume", "auto", *_FLAGS)
            assert_same_end(lab.root / "straight", lab.root / output, step=_STEPS)
            assert results(lab.root / output) == results(lab.root / "straight")
    print("| killed | times | resumed to the same bits |\n|---|---|---|")
    for kind, count in sorted(done.items()):
        print(f"| {kind} | {count} | {count} |")
    print(f"\n{sum(done.values())} kills over {num_runs} runs in {(time.monotonic() - began_s) / 60:.0f} minutes")


def _kind(kill: Kill) -> str:
    return f"inside a save, at {kill.point}" if kill.point else f"{kill.victim}, at a moment"


if __name__ == "__main__":
    main()
