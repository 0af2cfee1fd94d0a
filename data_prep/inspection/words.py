"""From token ids back to words, straight from `tokenizer.json`: pieces joined, punctuation beside its word.

What the tokenizer took away, capitals and accents, does not come back.

Shapes: V vocabulary, T tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsparse.data.vocabulary import Vocabulary, bytes_of, is_byte_level

_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%…’”")
_NO_SPACE_AFTER = frozenset("([{“‘$£€")
_APOSTROPHES = frozenset("'’")
_SHORT_FORMS = frozenset({"s", "t", "d", "m", "re", "ve", "ll"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Pieces:
    """What the ids of a vocabulary stand for."""

    texts: list[str]
    """By id, of length V, the prefix of pieces that go on a word included; printable."""
    vocabulary: Vocabulary
    prefix: str
    """Of pieces that go on a word, "##"."""

    @classmethod
    def read(cls, path: Path) -> Pieces:
        """Reads a `tokenizer.json`.

        Raises:
            UserError: the file is missing or is no WordPiece tokenizer with BERT's special tokens.
        """
        vocabulary = Vocabulary.read(path)
        content = json.loads(path.read_bytes())
        texts = [f"[id {number}]" for number in range(vocabulary.size)]
        is_bytes = is_byte_level(content)
        for piece, number in content["model"]["vocab"].items():
            text = bytes_of(piece).decode(errors="replace").strip(" ") or "␣" if is_bytes else piece
            texts[int(number)] = printable(text)
        for token in content.get("added_tokens", []):
            texts[int(token["id"])] = printable(token["content"])
        return cls(texts=texts, vocabulary=vocabulary, prefix=content["model"].get("continuing_subword_prefix") or "")

    def words(self, ids_T: NDArray[np.integer]) -> list[NDArray[np.integer]]:
        """Parts tokens into words: a piece and those that go on with it, as masking does.

        Args:
            ids_T: of one segment; it may begin within a word.

        Returns:
            The ids of each word; joined, they are `ids_T`.
        """
        begins_T = ~self.vocabulary.continues_word_V[ids_T]
        return [word for word in np.split(ids_T, np.flatnonzero(begins_T)) if len(word)]

    def word(self, ids: Iterable[int]) -> str:
        """The pieces of one word as one."""
        return "".join(self.bare(number) for number in ids)

    def bare(self, number: int) -> str:
        """A piece without prefix."""
        text = self.texts[number]
        return text.removeprefix(self.prefix) if self.vocabulary.continues_word_V[number] else text

    def text(self, ids_T: NDArray[np.integer]) -> str:
        """Tokens of one segment as a person reads them.

        Args:
            ids_T: int [T].
        """
        words = [self.word(ids.tolist()) for ids in self.words(ids_T)]
        return "".join(" " * space + word for space, word in zip(spaces_before(words), words, strict=True))


def spaces_before(words: Sequence[str]) -> list[bool]:
    """Whether a space stands before each word: not at the front, and not between a word and its punctuation."""
    spaces = []
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        # don ' t
        is_short_form = place >= 2 and word in _SHORT_FORMS and before in _APOSTROPHES and words[place - 2].isalpha()
        is_apostrophe = (
            place >= 1 and word in _APOSTROPHES and before.isalpha() and {*words[place + 1 : place + 2]} <= _SHORT_FORMS
        )
        joins = word in _NO_SPACE_BEFORE or before in _NO_SPACE_AFTER or is_short_form or is_apostrophe
        spaces.append(bool(place) and not joins)
    return spaces


def printable(text: str) -> str:
    """The text with a replacement character for what would steer a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
