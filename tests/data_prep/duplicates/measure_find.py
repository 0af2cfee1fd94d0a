"""A process that finds duplicates among many made-up units and prints, as JSON, what it took: see `test_bounds`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from data_prep.duplicates.find import DuplicateFinder
from data_prep.duplicates.signature import MinHashOptions, Signatures

OPTIONS = MinHashOptions(num_permutations=16)
UNITS_PER_PART = 100_000


def main(case: str, num_units: int, memory_bytes: int, folder: Path) -> None:
    """Makes the signatures, finds, and prints kinds, seconds and bytes."""
    paths = []
    for number in range(num_units // UNITS_PER_PART):
        paths.append(folder / f"{number}.signatures")
        made_up(case, number).save(paths[-1])
    warm_up(folder)
    before = peak_bytes()
    t0_s = time.monotonic()
    kinds = sum(
        np.bincount(one.kinds_N, minlength=3)
        for one in DuplicateFinder(folder / "work", memory_bytes=memory_bytes).find(paths, OPTIONS)
    )
    taken = {"seconds": time.monotonic() - t0_s, "bytes": peak_bytes() - before}
    print(json.dumps({"kinds": np.asarray(kinds).tolist(), **taken}))


def warm_up(folder: Path) -> None:
    """So that what numpy loads at first use is not counted."""
    made_up("mixed", 0)[:100].save(folder / "warm_up")
    list(DuplicateFinder(folder / "work", memory_bytes=1 << 16).find([folder / "warm_up"], OPTIONS))


def made_up(case: str, number: int) -> Signatures:
    """A part: "mixed" has a third of each kind, all units of the others are of one kind but for the first."""
    random = np.random.default_rng(number)
    shape = UNITS_PER_PART, OPTIONS.num_permutations
    exact = random.integers(0, 2**64, (UNITS_PER_PART, 2), np.uint64)
    values = np.random.default_rng(1234).integers(0, 2**32 - 1, (1, shape[1]), np.uint32).repeat(shape[0], axis=0)
    if case == "equal":
        exact[:] = 7
    elif case == "noisy":
        is_own = random.random(shape) < 0.1
        values[is_own] = random.integers(0, 2**32 - 1, is_own.sum(), np.uint32)
    elif case == "mixed":
        values = random.integers(0, 2**32 - 1, shape, np.uint32)
        third = UNITS_PER_PART // 3
        values[third : 2 * third] = values[:third]
        exact[2 * third :] = np.random.default_rng(1234).integers(0, 2**64, (UNITS_PER_PART - 2 * third, 2), np.uint64)
    else:
        assert case == "near"
    return Signatures(exact, values)


def peak_bytes() -> int:
    """The most memory this process has had so far, mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
