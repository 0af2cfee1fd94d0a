"""MinHash libraries for near duplicates, and what is found with the one in use: `python benchmarks/minhash.py`.

Prints three tables: how fast signatures of installed documentation are made on one core, and how far the estimates of
500 pairs of sets are from their Jaccard similarity, for each library; then how many of the pairs of real texts, changed
at random so that their similarity is anything from 0.5 to 1, `data_prep.duplicates` finds at the default options.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Before the libraries start a pool of threads.
os.environ["RAYON_NUM_THREADS"] = "1"

import datasketch
import numpy as np
import rensa
from numpy.typing import NDArray

from data_prep.duplicates.find import DuplicateFinder, Kind
from data_prep.duplicates.signature import MinHashOptions, signatures
from data_prep.sources.docstrings import docstrings_of, installed_modules
from dsparse.data.draw import draws

Sketch = Callable[[list[NDArray[np.uint64]], int], NDArray[np.integer]]
"""From sets of n-gram hashes and P to values [sets, P]."""
OPTIONS = MinHashOptions()
GOAL_MB_PER_S = 15.0
_MIN_CHARS = 500
_LEVELS = (0.0, 0.7, 0.75, 0.8, 0.85, 0.9, 1.01)


def main() -> None:
    """Measures and prints tables in Markdown."""
    arguments = parse()
    texts = list(documents(arguments.mib))
    print(f"{len(texts)} documents, {arguments.mib} MiB, one core, {OPTIONS.num_permutations} values\n")
    print_speed(texts, arguments.rounds)
    print_accuracy(arguments.pairs)
    print_found(texts)


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=8, help="of text")
    parser.add_argument("--pairs", type=int, default=500, help="of sets of each size")
    parser.add_argument("--rounds", type=int, default=5, help="the fastest of so many counts")
    return parser.parse_args()


def documents(mib: int) -> Iterator[str]:
    """Docstrings of installed modules, a module each."""
    left = mib << 20
    for path in installed_modules():
        text = "\n\n".join(docstrings_of(path.read_bytes()))
        if len(text) >= _MIN_CHARS:
            yield text
            left -= len(text.encode())
        if left <= 0:
            return


def by_rensa(sets: list[NDArray[np.uint64]], num_values: int) -> NDArray[np.integer]:
    """R-MinHash."""
    bounds = np.cumsum([0, *map(len, sets)]).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(sets), bounds, num_values, OPTIONS.seed)
    return np.array(matrix.to_rows(), np.uint32)


def by_rensa_c(sets: list[NDArray[np.uint64]], num_values: int) -> NDArray[np.integer]:
    """C-MinHash, 64 bits a value."""
    rows = rensa.CMinHash.digests64_from_token_hash_sets([one.tolist() for one in sets], num_values, OPTIONS.seed)
    return np.array(rows, np.uint64)


def by_datasketch(sets: list[NDArray[np.uint64]], num_values: int) -> NDArray[np.integer]:
    """Classical MinHash in numpy, given hashes of 32 bits."""
    rows = []
    for one in sets:
        sketch = datasketch.MinHash(num_perm=num_values, seed=OPTIONS.seed, hashfunc=int)
        sketch.update_batch((one >> np.uint64(32)).tolist())
        rows.append(sketch.hashvalues)
    return np.array(rows)


SKETCHES: dict[str, Sketch] = {
    f"rensa {version('rensa')}, R-MinHash": by_rensa,
    f"rensa {version('rensa')}, C-MinHash": by_rensa_c,
    f"datasketch {version('datasketch')}": by_datasketch,
}


def print_speed(texts: list[str], rounds: int) -> None:
    """Whole signatures as in use, and the libraries' share from hashed n-grams on."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    paragraphs = [paragraph for text in texts for paragraph in text.split("\n\n") if paragraph.strip()]
    sets = [draws(number, np.arange(max(len(text.split()) - 4, 1))) for number, text in enumerate(texts)]
    works: dict[str, Callable[[], Any]] = {
        "signatures, exact only": lambda: signatures(texts, None),
        "signatures of documents": lambda: signatures(texts, OPTIONS),
        f"signatures of {len(paragraphs)} paragraphs": lambda: signatures(paragraphs, OPTIONS),
        **{f"{name} alone": partial(sketch, sets, OPTIONS.num_permutations) for name, sketch in SKETCHES.items()},
    }
    print("| what | MB/s | goal |\n|---|---|---|")
    for name, work in works.items():
        speed = megabytes / min(timed(work) for _ in range(rounds))
        goal = ("met" if speed >= GOAL_MB_PER_S else "missed") if name.startswith("signatures") else ""
        print(f"| {name} | {speed:.0f} | {f'≥ {GOAL_MB_PER_S:g}: {goal}' if goal else ''} |", flush=True)


def print_accuracy(num_pairs: int) -> None:
    """Estimates against the similarity of sets made to have it."""
    print("\n| library | n-grams | mean absolute error | greatest | mean error |\n|---|---|---|---|---|")
    for size in (50, 500, 5000):
        chooser = np.random.default_rng(size)
        num_shared = chooser.integers(size // 2, size + 1, num_pairs)
        sets, start = [], 0
        for shared in num_shared.tolist():
            union = draws(size, np.arange(start, start + 2 * size - shared))
            sets += [union[:size], union[size - shared :]]
            start += len(union)
        true = num_shared / (2 * size - num_shared)
        for name, sketch in SKETCHES.items():
            values = sketch(sets, OPTIONS.num_permutations)
            errors = (values[::2] == values[1::2]).mean(axis=1) - true
            worst, mean = np.abs(errors).max(), np.abs(errors).mean()
            print(f"| {name} | {size} | {mean:.4f} | {worst:.4f} | {errors.mean():+.4f} |", flush=True)


def print_found(texts: list[str]) -> None:
    """How many changed copies of texts are found, by their true similarity."""
    words_of = [text.split()[:1000] for text in texts]
    originals = distinct([" ".join(words) for words in words_of if len(words) >= 100])
    chooser = random.Random(0)
    copies = [changed(text, chooser) for text in originals]
    true = np.array([similarity(one, other) for one, other in zip(originals, copies, strict=True)])
    is_found = found([*originals, *copies])[len(originals) :]
    is_near = true >= OPTIONS.threshold
    print(
        f"\n{len(originals)} texts of 100 to 1000 words and a changed copy of each, threshold {OPTIONS.threshold:g}\n"
    )
    print("| Jaccard similarity | pairs | found |\n|---|---|---|")
    for low, high in itertools.pairwise(_LEVELS):
        here = (low <= true) & (true < high)
        print(f"| {low:g} to {min(high, 1):g} | {here.sum()} | {is_found[here].mean():.3f} |")
    precision, recall = is_near[is_found].mean(), is_found[is_near].mean()
    print(f"\nPrecision {precision:.3f}, recall {recall:.3f}; recall from {OPTIONS.threshold + 0.05:g} on", end=" ")
    print(f"{is_found[true >= OPTIONS.threshold + 0.05].mean():.3f}")


def distinct(texts: list[str]) -> list[str]:
    """Those of the texts that are not near another, with a margin."""
    is_near = found(texts, replace(OPTIONS, threshold=0.4))
    return [text for text, gone in zip(texts, is_near, strict=True) if not gone]


def found(texts: list[str], options: MinHashOptions = OPTIONS) -> NDArray[np.bool_]:
    """Which texts go as duplicates."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "signatures")
        signatures(texts, options).save(path)
        (result,) = DuplicateFinder(Path(folder, "work")).find([path], options)
    return result.kinds_N != Kind.KEPT


def changed(text: str, chooser: random.Random) -> str:
    """The text with words replaced, so many that the similarity is about uniform from 0.5 to 1."""
    words, wanted = text.split(), chooser.uniform(0.5, 1)
    share_lost = (1 - wanted) / (1 + wanted)
    rate = 1 - (1 - share_lost) ** (1 / OPTIONS.ngram)
    return " ".join(f"x{chooser.getrandbits(60):x}" if chooser.random() < rate else word for word in words)


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the n-grams of words, by sets."""
    first, second = (ngrams(text) for text in (one, other))
    return len(first & second) / len(first | second)


def ngrams(text: str) -> set[tuple[str, ...]]:
    """As `data_prep.duplicates.signature` says, written in the plainest way."""
    lower = "".join(" " if c.isascii() and not c.isalnum() else c for c in text.lower())
    words = lower.split()
    return set(zip(*(words[place:] for place in range(OPTIONS.ngram)), strict=False))


def timed(work: Callable[[], Any]) -> float:
    """Seconds of the processor, so that others on the machine do not count."""
    t0_s = time.process_time()
    work()
    return time.process_time() - t0_s


if __name__ == "__main__":
    main()
