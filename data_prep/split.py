"""Which documents are held out: a function of each document's text alone.

A document's hash is its place on the line from 0 to 1, and those below a bound are held out. So a document stays on its
side when others come and go, and the same text in another source is on the same side. The bound is the fraction asked
for; only where that would hold out too few to evaluate on does it move up to the documents next on the line.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable

from data_prep.corpus import hash_of

MIN_DOCUMENTS = 2
"""In each split: the second sentence of a pair may have to come from another document."""


def split_of(document: list[str], *, bound: float, seed: int) -> str:
    """The split of a document.

    Args:
        document: its sentences.
        bound: from `heldout_bound`.
        seed: another seed holds out others.

    Returns:
        "train" or "heldout".
    """
    return "heldout" if _place(document, seed) < bound else "train"


def heldout_bound(documents: Iterable[list[str]], *, fraction: float, seed: int) -> float:
    """The bound that holds out a fraction of the documents, and at least MIN_DOCUMENTS of two sentences.

    Args:
        documents: of the corpus; no more are looked at than it takes to see that the fraction is enough.
        fraction: share of the documents to hold out, in (0, 1).
        seed: as for `split_of`.
    """
    lowest: list[float] = []
    for document in documents:
        if len(document) >= 2:
            insort(lowest, _place(document, seed))
            del lowest[MIN_DOCUMENTS:]
            if len(lowest) == MIN_DOCUMENTS and lowest[-1] < fraction:
                return fraction
    return max([fraction, *(math.nextafter(place, 1) for place in lowest)])


def _place(document: list[str], seed: int) -> float:
    return hash_of(f"{seed}\n" + "\n".join(document)) / 2**64
