"""What a text is recognised by: a hash of all of it, and MinHash values of its n-grams of words.

Two texts are the same if they are equal after `" ".join(text.split())`: white space does not count, all else does.

They are near if they share most of their n-grams of words, where case and ASCII punctuation do not count either. The
share is the Jaccard similarity of the two sets of n-grams, J = |A and B| / |A or B|. Each MinHash value of one text is
equal to that of the other with probability J, so the share of equal values estimates it, with a standard deviation
below sqrt(J (1 - J) / P): 0.035 for P = 128 and J = 0.8. A word that is replaced takes `ngram` n-grams with it: one in
100 leaves J = 0.90, one in 50 leaves 0.82, one in 5 leaves next to nothing.

Shapes: N texts, W words of all of them, G n-grams of all of them, P MinHash values.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import string
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rensa
from numpy.typing import NDArray

from dsparse.data.draw import mix
from dsparse.errors import UserError

ALGORITHM_VERSION: int = rensa.RMinHash.ALGORITHM_VERSION
"""Of MinHash; signatures of different versions do not compare, so what is kept for another run is kept with it."""

_MAGIC = b"DSDUPS\x00\x01"
_HEADER = struct.Struct("<8sQQ")
"""Magic, N and P; then the exact hashes, row by row, then the MinHash values. All little-endian."""
_NO_VALUE = np.uint32(0xFFFFFFFF)
"""All values of a text too short for MinHash; no set of n-grams has these."""
_NGRAM_MULTIPLIER = np.uint64(0xD1342543DE82EF95)
_DETECTION = 0.99
_TEXTS_AT_ONCE, _WORDS_AT_ONCE = 256, 1 << 16
"""As objects of Python, which take many times the memory of what they hold, and are faster when they are few."""
_PUNCTUATION_TO_SPACE = bytes(32 if chr(byte) in string.punctuation else byte for byte in range(256))


@dataclass(frozen=True, kw_only=True)
class MinHashOptions:
    """How near duplicates are looked for.

    Two texts are compared if they agree in one band of values at least, which they do with probability
    1 - (1 - J^rows)^bands, and are near if they agree in a share `threshold` of all values. At the defaults, 21 bands
    of 6 rows:

        J                        0.5    0.6    0.7    0.8    0.9
        are compared             0.28   0.63   0.93   0.998  1.000

    What is compared and not near costs a little time and nothing else, so what is found is decided by the estimate;
    benchmarks/minhash.py shows how often.
    """

    threshold: float = 0.8
    """Jaccard similarity from which on texts are near, in (0, 1]."""
    num_permutations: int = 128
    """P, MinHash values of a text, 4 bytes each."""
    ngram: int = 5
    """Words in an n-gram. A text of fewer words is never near another."""
    seed: int = 42
    """Another seed errs on other texts."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(f"Expected 0 < threshold <= 1 for near duplicates. Got {self.threshold}.")
        for name, value in (("num_permutations", self.num_permutations), ("ngram", self.ngram)):
            if value < 1:
                raise UserError(f"Expected {name} >= 1 for near duplicates. Got {value}.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"Expected 0 <= seed < 2**63 for near duplicates. Got {self.seed}.")

    @property
    def bands(self) -> tuple[int, int]:
        """Number of bands and rows (values) in each: the most rows with which 99 % of what is at the threshold meet."""
        for rows in range(self.num_permutations, 1, -1):
            num_bands = self.num_permutations // rows
            if 1 - (1 - self.threshold**rows) ** num_bands >= _DETECTION:
                return num_bands, rows
        return self.num_permutations, 1


@dataclass(frozen=True, eq=False)
class Signatures:
    """Of N texts in order."""

    exact_N2: NDArray[np.uint64]
    """[N, 2], the hash of the text but for white space; equal for equal texts and, but for 2**-128, for no others."""
    minhash_NP: NDArray[np.uint32] | None
    """[N, P], or None where near duplicates are not looked for."""

    def __len__(self) -> int:
        return len(self.exact_N2)

    def __getitem__(self, texts: slice) -> Signatures:
        """Those of a stretch of the texts, views of these."""
        return Signatures(self.exact_N2[texts], None if self.minhash_NP is None else self.minhash_NP[texts])

    def has_near(self) -> NDArray[np.bool_]:
        """Which texts are long enough to be near another, bool [N]."""
        if self.minhash_NP is None:
            return np.zeros(len(self), np.bool_)
        return np.any(self.minhash_NP != _NO_VALUE, axis=1)

    def save(self, path: Path) -> None:
        """Writes one file of 24 + N (16 + 4 P) bytes; a caller who may be interrupted renames it into place."""
        num_values = 0 if self.minhash_NP is None else self.minhash_NP.shape[1]
        with open(path, "wb") as stream:
            stream.write(_HEADER.pack(_MAGIC, len(self), num_values))
            stream.write(np.ascontiguousarray(self.exact_N2, "<u8").data)
            if self.minhash_NP is not None:
                stream.write(np.ascontiguousarray(self.minhash_NP, "<u4").data)

    @classmethod
    def load(cls, path: Path) -> Signatures:
        """Maps a file into memory, read only.

        Raises:
            UserError: the file is missing, truncated or none that `save` wrote.
        """
        num_texts, num_values = read_header(path)
        if num_texts == 0:
            return cls(np.empty((0, 2), np.uint64), np.empty((0, num_values), np.uint32) if num_values else None)
        start = _HEADER.size
        exact_N2 = np.memmap(path, np.dtype("<u8"), "r", offset=start, shape=(num_texts, 2))
        if num_values == 0:
            return cls(exact_N2, None)
        start += exact_N2.nbytes
        return cls(exact_N2, np.memmap(path, np.dtype("<u4"), "r", offset=start, shape=(num_texts, num_values)))


def read_header(path: Path) -> tuple[int, int]:
    """N and P of a file that `Signatures.save` wrote; P is 0 where near duplicates are not looked for.

    Raises:
        UserError: the file is missing, truncated or none that `save` wrote.
    """
    try:
        with open(path, "rb") as stream:
            raw = stream.read(_HEADER.size)
            num_bytes = os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        raise UserError(f"Expected signatures of texts at {path}. Got no file.") from None
    if len(raw) < _HEADER.size or not raw.startswith(_MAGIC):
        raise UserError(f"Expected {path} to begin with {_MAGIC!r}. Got {raw[:8]!r}.")
    _, num_texts, num_values = _HEADER.unpack(raw)
    wanted_bytes = _HEADER.size + num_texts * (16 + 4 * num_values)
    if num_bytes != wanted_bytes:
        raise UserError(
            f"Expected {path} to hold {wanted_bytes} bytes for {num_texts} texts. Got {num_bytes}: it is truncated or "
            "altered."
        )
    return num_texts, num_values


def signatures(texts: Sequence[str], options: MinHashOptions | None) -> Signatures:
    """The signatures of texts: a function of each text and the options alone, the same in every process.

    Args:
        texts: N of them; a few MiB in all, as everything made on the way is in memory.
        options: how near duplicates are looked for; None looks for equal texts only.
    """
    folded = [" ".join(text.split()) for text in texts]
    digests = b"".join(hashlib.blake2b(_encode(text), digest_size=16).digest() for text in folded)
    exact_N2 = np.frombuffer(digests, np.dtype("<u8")).reshape(-1, 2)
    if options is None:
        return Signatures(exact_N2, None)
    ngrams_G, counts_N = _ngrams(*_word_hashes(folded), options.ngram)
    return Signatures(exact_N2, _minhash(ngrams_G, counts_N, options))


def _word_hashes(folded: Iterable[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of the words of all texts without case and punctuation, uint64 [W], and the number in each, int64 [N]."""
    hash_of = _WordHashes().__getitem__
    hashes, lengths, words = [np.empty(0, np.uint64)], [], list[bytes]()
    for text in folded:
        before = len(words)
        words += _encode(text.lower()).translate(_PUNCTUATION_TO_SPACE).split()
        lengths.append(len(words) - before)
        if len(words) >= _WORDS_AT_ONCE:
            hashes.append(np.fromiter(map(hash_of, words), np.uint64, len(words)))
            words.clear()
    hashes.append(np.fromiter(map(hash_of, words), np.uint64, len(words)))
    return np.concatenate(hashes), np.array(lengths, np.int64)


class _WordHashes(dict[bytes, int]):
    """64-bit hashes of words, each computed once: a text has its words from a small stock."""

    def __missing__(self, word: bytes) -> int:
        value = self[word] = int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")
        return value


def _encode(text: str) -> bytes:
    # Half a surrogate pair, which JSON can hold, is no reason to stop here.
    return text.encode("utf-8", "surrogatepass")


def _ngrams(
    hashes_W: NDArray[np.uint64], lengths_N: NDArray[np.int64], ngram: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of the n-grams inside each text.

    Returns:
        uint64 [G], and int64 [N], the number in each text.
    """
    counts_N = np.maximum(lengths_N - (ngram - 1), 0)
    if not counts_N.any():
        return np.empty(0, np.uint64), counts_N
    num_windows = len(hashes_W) - (ngram - 1)
    windows = np.zeros(num_windows, np.uint64)
    for place in range(ngram):
        windows *= _NGRAM_MULTIPLIER
        windows += hashes_W[place : place + num_windows]
    ends_W = np.repeat(np.cumsum(lengths_N), lengths_N)
    is_inside = np.arange(ngram, ngram + num_windows) <= ends_W[:num_windows]
    return mix(windows[is_inside]), counts_N


def _minhash(ngrams_G: NDArray[np.uint64], counts_N: NDArray[np.int64], options: MinHashOptions) -> NDArray[np.uint32]:
    """MinHash values, uint32 [N, P]."""
    minhash_NP = np.full((len(counts_N), options.num_permutations), _NO_VALUE)
    texts = np.flatnonzero(counts_N)
    bounds = np.concatenate([[0], np.cumsum(counts_N[texts])])
    with _one_thread():
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[begin : begin + _TEXTS_AT_ONCE]
            ends = bounds[begin : begin + len(some) + 1]
            matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
                ngrams_G[ends[0] : ends[-1]], (ends - ends[0]).astype(np.uint64), options.num_permutations, options.seed
            )
            values = itertools.chain.from_iterable(matrix.to_rows())
            minhash_NP[some] = np.fromiter(values, np.uint32).reshape(len(some), -1)
    return minhash_NP


@contextmanager
def _one_thread() -> Iterator[None]:
    # The library starts a pool of threads otherwise. There is a process for each core already, and a process that is
    # forked while the pool exists waits for it forever.
    name = "RAYON_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
