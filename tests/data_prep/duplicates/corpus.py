"""Real English with duplicates planted in it, and finding them."""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.duplicates.find import MEMORY_BYTES, DuplicateFinder
from data_prep.duplicates.signature import MinHashOptions, Signatures, signatures
from tests.data.store_fixture import stdlib_documents

NEAR = MinHashOptions()


@functools.lru_cache
def documents() -> list[str]:
    """A hundred documents of 200 words or more, none near another."""
    return [text for text in stdlib_documents() if len(text.split()) >= 200][:60]


def every(step: int, text: str) -> str:
    """The text with each word at a multiple of `step` replaced by one that is nowhere else."""
    words = text.split()
    draw = random.Random(text)
    words[step // 2 :: step] = [f"w{draw.getrandbits(60):x}" for _ in words[step // 2 :: step]]
    return " ".join(words)


def with_other_white_space(text: str) -> str:
    return "\n\t " + text.replace(" ", "  ").replace("\n\n", "\r\n \r\n") + "\u00a0\n"


CHANGES: dict[str, Callable[[str], str]] = {
    "unchanged": str,
    "white space": with_other_white_space,
    "case": str.upper,
    "punctuation": lambda text: text.replace(",", ";").replace(". ", " - "),
    "one word in 100": functools.partial(every, 100),
    "one word in 5": functools.partial(every, 5),
    "beginning": lambda text: " ".join(text.split()[: len(text.split()) // 3]) + " " + every(1, text),
}


def found_in(
    parts: Sequence[Signatures], options: MinHashOptions | None, *, memory_bytes: int = MEMORY_BYTES
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Kinds and originals of all units of the parts."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.signatures") for number in range(len(parts))]
        for path, part in zip(paths, parts, strict=True):
            part.save(path)
        finder = DuplicateFinder(Path(folder, "work"), memory_bytes=memory_bytes)
        found = list(finder.find(paths, options))
        assert [len(one.kinds_N) for one in found] == [len(part) for part in parts]
        assert not Path(folder, "work").exists()
    if not found:
        return np.empty(0, np.uint8), np.empty(0, np.int64)
    return np.concatenate([one.kinds_N for one in found]), np.concatenate([one.originals_N for one in found])


def found_in_texts(
    texts: Sequence[str], options: MinHashOptions | None = NEAR
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return found_in([signatures(texts, options)], options)


def split_at(whole: Signatures, bounds: Sequence[int]) -> list[Signatures]:
    """The signatures in parts with these bounds between them."""
    return [whole[begin:end] for begin, end in zip([0, *bounds], [*bounds, len(whole)], strict=True)]
