"""From sentences to token ids: words seen before are looked up, new ones are encoded by the tokenizer library.

A BERT tokenizer works on each word by itself: it parts text at white space, then at punctuation, and looks for word
pieces within what remains. So a sentence's tokens are the tokens of its words in a row, and most words of a corpus are
repetitions. The ids of a word are kept as the bytes that go into the store, and a sentence is one join of them.

A tokenizer of another make, whose words may depend on each other, encodes whole sentences. Byte-level BPE is encoded by
gigatoken where that is installed, a library that does the same several times faster. Its sentences get a space before
their first word, so that this has the piece that it has elsewhere.
"""

from __future__ import annotations

import importlib
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data_prep.text.tokenizer import read_tokenizer
from dsparse.data.store import smallest_dtype
from dsparse.data.vocabulary import is_byte_level

MAX_WORDS, MAX_PIECES = 600_000, 200_000
"""Words, and parts of words between punctuation, that are remembered: about 150 MB in all."""
_PIECE = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9]")


class SentenceEncoder:
    """Encodes sentences as `Tokenizer.encode` does, without special tokens."""

    def __init__(self, path: Path) -> None:
        """Reads the tokenizer.

        Args:
            path: a tokenizer.json.

        Raises:
            UserError: it is neither WordPiece nor byte-level BPE with BERT's special tokens.
        """
        self.tokenizer = read_tokenizer(path)
        self.dtype = smallest_dtype(self.tokenizer.get_vocab_size(with_added_tokens=True))
        description = json.loads(self.tokenizer.to_str())
        self._word = _Words(self.tokenizer, self.dtype, description).__getitem__ if is_by_word(description) else None
        self._space = " " if is_byte_level(description) else ""
        self._quick = _gigatoken(path) if self._space else None
        self._added = [token["content"] for token in description.get("added_tokens", [])]

    def encode(self, sentences: list[str]) -> list[bytes]:
        """The token ids of each sentence, as bytes of `dtype`.

        Args:
            sentences: with single spaces between words.
        """
        if self._word is not None:
            word = self._word
            return [b"".join(map(word, sentence.split(" "))) for sentence in sentences]
        sentences = [self._space + sentence for sentence in sentences]
        # It would take "<s>" in a text for the special token.
        if self._quick is not None and not any(token in sentence for token in self._added for sentence in sentences):
            return self._quick(sentences, self.dtype)
        encoded = self.tokenizer.encode_batch_fast(sentences, add_special_tokens=False)
        return [np.asarray(one.ids, self.dtype).tobytes() for one in encoded]


def is_by_word(description: dict[str, Any]) -> bool:
    """Whether a tokenizer works on each word by itself.

    Args:
        description: content of a tokenizer.json.
    """
    normalizer, splitter = description.get("normalizer"), description.get("pre_tokenizer")
    # An added token that is not special may hold a space.
    has_only_special = all(token["special"] for token in description.get("added_tokens", []))
    return (
        description["model"]["type"] == "WordPiece"
        and (normalizer is None or normalizer["type"] == "BertNormalizer")
        and splitter is not None
        and splitter["type"] == "BertPreTokenizer"
        and has_only_special
    )


def _gigatoken(path: Path) -> Callable[[list[str], np.dtype[Any]], list[bytes]] | None:
    try:
        library, awkward = (importlib.import_module(name) for name in ("gigatoken", "awkward"))
    except ImportError:
        return None
    tokenizer = library.Tokenizer(str(path))

    def encode(sentences: list[str], dtype: np.dtype[Any]) -> list[bytes]:
        found = tokenizer.encode_batch(sentences)
        ids = awkward.flatten(found).to_numpy().astype(dtype).tobytes()
        ends = np.cumsum(awkward.num(found).to_numpy()) * dtype.itemsize
        return [ids[begin:end] for begin, end in itertools.pairwise([0, *ends.tolist()])]

    return encode


class _Pieces(dict[str, bytes]):
    """Ids of what has neither space nor, in ASCII, punctuation beside it."""

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype[Any]) -> None:
        super().__init__()
        self._tokenizer, self._dtype = tokenizer, dtype

    def __missing__(self, piece: str) -> bytes:
        ids = np.asarray(self._tokenizer.encode(piece, add_special_tokens=False).ids, self._dtype).tobytes()
        if len(self) >= MAX_PIECES:
            self.clear()
        self[piece] = ids
        return ids


class _Words(dict[str, bytes]):
    """Ids of what stands between spaces, as written; the first MAX_WORDS stay, which are the most frequent ones."""

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype[Any], description: dict[str, Any]) -> None:
        super().__init__()
        self._piece: Callable[[str], bytes] = _Pieces(tokenizer, dtype).__getitem__
        normalizer = description.get("normalizer")
        self._is_lower = normalizer is not None and normalizer["lowercase"]

    def __missing__(self, word: str) -> bytes:
        if word.isascii() and word.isprintable():
            # In ASCII, what is neither letter nor digit is punctuation, and each sign is a word of its own.
            pieces = _PIECE.findall(word.lower() if self._is_lower else word)
            ids = b"".join(map(self._piece, pieces))
        else:
            ids = self._piece(word)
        if len(self) < MAX_WORDS:
            self[word] = ids
        return ids
