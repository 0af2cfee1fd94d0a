"""Which documents are held out, trained on twice or taken for the vocabulary: functions of each document's text alone.

A document's hash is its place on the line from 0 to 1, and those below a bound are held out. So a document stays on its
side when others come and go, and the same text in another source is on the same side. The bound is the fraction asked
for; only where that would hold out too few to evaluate on does it move up to the documents next on the line.

Shapes: D documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dsparse.data.draw import happens, mix

MIN_DOCUMENTS = 2
"""In each split: the second sentence of a pair may have to come from another document."""
_LINE = 2**64
_VOCABULARY, _COPIES = np.uint64(0x5851F42D4C957F2D), np.uint64(0x14057B7EF767814F)

Hashes = NDArray[np.uint64]


def place_of(sentences: str, seed: int) -> int:
    """The hash of a document, 64 bits, the same in every process.

    Args:
        sentences: one a line.
        seed: another seed holds out others.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed}\n{sentences}".encode(), digest_size=8).digest(), "little")


def heldout_bound(parts: Iterable[tuple[Hashes, NDArray[np.integer]]], *, fraction: float) -> int:
    """The bound that holds out a fraction of the documents, and at least MIN_DOCUMENTS of two sentences.

    Args:
        parts: hashes and numbers of sentences, [D] each, of the documents of each part.
        fraction: share of the documents to hold out, in (0, 1).

    Returns:
        Documents with a hash below it are held out; at most 2**64 - 1.
    """
    lowest = np.empty(0, np.uint64)
    for hashes_D, num_sentences_D in parts:
        lowest = np.sort(np.concatenate([lowest, hashes_D[num_sentences_D >= 2]]))[:MIN_DOCUMENTS]
    needed = int(lowest[-1]) + 1 if len(lowest) == MIN_DOCUMENTS else 0
    return min(max(int(fraction * _LINE), needed), _LINE - 1)


def is_heldout(hashes_D: Hashes, bound: int) -> NDArray[np.bool_]:
    """Which documents are held out, bool [D]."""
    return hashes_D < np.uint64(bound)


def is_in_share(hashes_D: Hashes, share: float) -> NDArray[np.bool_]:
    """A fair draw of the documents for the vocabulary, independent of who is held out; bool [D]."""
    return happens(mix(hashes_D ^ _VOCABULARY), share)


def num_copies(hashes_D: Hashes, weight: float) -> NDArray[np.int64]:
    """How often each document is stored for a weight: its whole part, and once more for as many as its fraction says.

    Returns:
        int64 [D], of mean `weight`.
    """
    whole = int(weight)
    return whole + happens(mix(hashes_D ^ _COPIES), weight - whole).astype(np.int64)
