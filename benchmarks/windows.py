"""What is lost to padding and to cutting: `python benchmarks/windows.py --store build/store`.

Windows by formula, as `dsparse.data.windows` has them, against windows filled in turn as BERT fills sequences:
sentences are taken until a sequence is full, and what remains at the end of a document is its last window. Padding is
the share of a sequence's places that its window leaves empty, cut the share of the windows' tokens that does not fit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

from dsparse.data.manifest import Manifest
from dsparse.data.pairs import NUM_SPECIAL
from dsparse.data.shards import ShardedStore
from dsparse.data.windows import Windows


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--seq-lengths", type=int, nargs="+", default=[128, 512])
    arguments = parser.parse_args()
    store = ShardedStore(Manifest.read(arguments.store).prefixes(arguments.store, "train"))
    bounds_D = store.document_bounds(np.arange(store.num_documents + 1))
    offsets_N = store.token_offsets(np.arange(store.num_sentences + 1))
    print(f"{store.num_tokens:,} tokens, {store.num_documents:,} documents, {store.num_sentences:,} sentences\n")
    print("| tokens in a sequence | windows | samples in an epoch | padding | cut |\n|---|---|---|---|---|")
    for seq_length in arguments.seq_lengths:
        max_tokens = seq_length - NUM_SPECIAL
        windows = Windows(store, max_tokens)
        _, first_W, past_W = windows.find(np.arange(len(windows)))
        for name, tokens_W in (
            ("filled in turn", offsets_N[filled_in_turn(bounds_D, offsets_N, max_tokens)]),
            ("by formula", offsets_N[np.stack([first_W, past_W])]),
        ):
            sizes_W = tokens_W[1] - tokens_W[0]
            padding = np.maximum(max_tokens - sizes_W, 0).sum() / (max_tokens * len(sizes_W))
            cut = np.maximum(sizes_W - max_tokens, 0).sum() / sizes_W.sum()
            print(f"| {seq_length} | {name} | {len(sizes_W):,} | {padding:.1%} | {cut:.1%} |", flush=True)


def filled_in_turn(bounds_D: NDArray[np.int64], offsets_N: NDArray[np.int64], max_tokens: int) -> NDArray[np.int64]:
    """First and past sentence of each window, int64 [2, W]; at least two sentences, a single last one joins others."""
    found: list[tuple[int, int]] = []
    for first, end in zip(bounds_D[:-1].tolist(), bounds_D[1:].tolist(), strict=True):
        while end - first >= 2:
            past = max(int(np.searchsorted(offsets_N, offsets_N[first] + max_tokens)), first + 2)
            past = end if end - past < 2 else past
            found.append((first, past))
            first = past
    return np.asarray(found).T


if __name__ == "__main__":
    main()
