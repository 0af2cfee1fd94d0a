"""Drops documents that are no prose: fragments, tables, boilerplate that repeats itself, other languages.

The limits are those of the corpora of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1 and appendix A1.1) and C4
(Raffel et al. 2020, arXiv 1910.10683, section 2.2) where they have one, and drop little of an encyclopedia or of books.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from data_prep.text.alphabet import count_characters
from data_prep.text.language import LanguageId
from dsparse.errors import UserError

_NUM_WORDS_OF_NGRAM = 10
_MAX_WORDS_READ = 1 << 16  # of a book for n-grams
_ODD = 0x9E3779B97F4A7C15  # spreads the words of an n-gram over 64 bits
_ASCII_SPACES = b"\t\n\v\f\r\x1c\x1d\x1e\x1f "
_ASCII_LETTERS = string.ascii_letters.encode()


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What a document has to be; None leaves a filter out."""

    min_words: int | None = 5
    """Words, which white space parts. C4 asks for 5 words of a line; Gopher, for web pages, for 50 of a document."""
    max_words: int | None = None
    """No limit, for books are wanted. Gopher, for web pages: 100 000."""
    max_mean_word_length: float | None = 10.0
    """Characters. Gopher: 10."""
    min_letter_share: float | None = 0.6
    """Of the characters that are no white space. Ours: prose has over 0.9, Gopher asks for letters in 0.8 of words."""
    max_repeated_line_share: float | None = 0.3
    """Lines that stood there before, of all that are not empty. Gopher: 0.3, of lines and of paragraphs."""
    max_repeated_ngram_share: float | None = 0.2
    """Words inside ten words in a row that stood there before. Gopher: 0.1, of characters, which drops twice as many
    reference documents: their phrases recur."""
    language: str | None = None
    """Code after ISO 639, such as "en", that py3langid knows; see data_prep/text/language.py."""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            UserError: one makes no sense, or the language cannot be told.
        """
        for name in ("min_letter_share", "max_repeated_line_share", "max_repeated_ngram_share"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"Expected {name} from 0 to 1. Got {share}; it is a share, not a percentage.")
        for name in ("min_words", "max_words", "max_mean_word_length"):
            number = getattr(self, name)
            if number is not None and not number >= 0:
                raise UserError(f"Expected {name} of 0 or more. Got {number}; use null for no limit.")
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise UserError(
                f"Expected min_words <= max_words. Got {self.min_words} > {self.max_words}; lower min_words."
            )
        if self.language is not None:
            _language_id(self.language)

    def why_dropped(self, text: str) -> str | None:
        """Why a document is not kept, in words to count documents by.

        Returns:
            "too short", "too long", "long words", "few letters", "repetitive lines", "repetitive n-grams",
            "other language", the first of these that is so, or None: it is kept.
        """
        words = text.split()
        if not words or (self.min_words is not None and len(words) < self.min_words):
            return "too short"
        if self.max_words is not None and len(words) > self.max_words:
            return "too long"
        return self._why_dropped_for_characters(text, len(words)) or self._why_dropped_for_content(text, words)

    def _why_dropped_for_characters(self, text: str, num_words: int) -> str | None:
        # ASCII is quick to count, and English is kept for its ASCII letters alone.
        plain = text.encode("ascii", "ignore")
        num_printed = len(text) - (len(plain) - len(plain.translate(None, _ASCII_SPACES)))
        num_letters = len(plain) - len(plain.translate(None, _ASCII_LETTERS))
        reason = self._why_dropped_for_counts(num_words, num_printed, num_letters)
        if reason is None or len(plain) == len(text):
            return reason
        counts = count_characters(text)
        num_printed = sum(count for character, count in counts.items() if not character.isspace())
        num_letters = sum(count for character, count in counts.items() if character.isalpha())
        return self._why_dropped_for_counts(num_words, num_printed, num_letters)

    def _why_dropped_for_counts(self, num_words: int, num_printed: int, num_letters: int) -> str | None:
        if self.max_mean_word_length is not None and num_printed > self.max_mean_word_length * num_words:
            return "long words"
        if self.min_letter_share is not None and num_letters < self.min_letter_share * num_printed:
            return "few letters"
        return None

    def _why_dropped_for_content(self, text: str, words: Sequence[str]) -> str | None:
        limit = self.max_repeated_line_share
        if limit is not None and repeated_line_share(text) > limit:
            return "repetitive lines"
        limit = self.max_repeated_ngram_share
        if limit is not None and repeated_ngram_share(words) > limit:
            return "repetitive n-grams"
        if self.language is not None and _language_id(self.language).is_other(text):
            return "other language"
        return None


def repeated_line_share(text: str) -> float:
    """The share of lines, of those that are not empty, that stood there before."""
    lines = [line for line in text.split("\n") if line]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def repeated_ngram_share(words: Sequence[str], size: int = _NUM_WORDS_OF_NGRAM) -> float:
    """The share of words inside n-grams of `size` words that stood there before, for at most 65 536 words."""
    words = words[:_MAX_WORDS_READ]
    num_ngrams = len(words) - size + 1
    if num_ngrams < 2:
        return 0.0
    powers, inverses = _powers()
    # Hashes differ from process to process, but which of them are equal does not.
    hashes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    # With sums of hash times power up to each word, that of an n-gram is a difference, moved to power 0.
    sums = np.zeros(len(words) + 1, np.uint64)
    np.cumsum(hashes * powers[: len(words)], out=sums[1:])
    ngrams = (sums[size:] - sums[:-size]) * inverses[:num_ngrams]
    in_order = np.sort(ngrams)
    if not (in_order[1:] == in_order[:-1]).any():
        return 0.0
    # Sorting positions takes several times as long, and most documents do not come here.
    order = np.argsort(ngrams, kind="stable")
    again = order[1:][ngrams[order[1:]] == ngrams[order[:-1]]]
    steps = np.zeros(len(words) + 1, np.int64)
    steps[again] += 1
    steps[again + size] -= 1
    return float(np.count_nonzero(np.cumsum(steps)) / len(words))


@cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """Those of an odd number and of its inverse, modulo 2**64."""
    inverse = pow(_ODD, -1, 1 << 64)
    bases = (np.full(_MAX_WORDS_READ, base, np.uint64) for base in (_ODD, inverse))
    powers, inverses = (np.cumprod(base) for base in bases)
    return powers, inverses


@cache
def _language_id(language: str) -> LanguageId:
    """In each process once: the model is large, and the options go from process to process without it."""
    return LanguageId(language)
