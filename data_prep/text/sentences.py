"""Splits paragraphs into sentences.

The rules are those of sentencex, the segmenter that Wikimedia keeps for its translation tools: on treebanks annotated
by hand it is among the most accurate of the libraries that benchmarks/sentence_splitters.py compares, and by far the
fastest. It leaves quotations whole, however many sentences they have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import sentencex

MAX_CHARS = 1000
"""A longer sentence is cut between two words: it is a list or a table that has lost its line breaks."""

_STRETCH = 10_000
"""Characters that the library gets at once: on hostile text its time grows with the square of them."""

# The number of a list's item, which belongs to what comes after it.
_NUMBER = re.compile(r"\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})[.)] ")


def split_sentences(paragraph: str) -> list[str]:
    """Splits a paragraph of English whose white space is single spaces.

    Returns:
        Sentences in order; joined by spaces they are the paragraph again, but where a word is longer than MAX_CHARS.
    """
    sentences, words = [], ""
    for segment in _segments(paragraph):
        words += segment
        # The library also ends a sentence at "end.Next", which more often is a name of something than a lost space.
        if segment.endswith(" ") and not _NUMBER.fullmatch(words):
            sentences.append(words[:-1])
            words = ""
    sentences.append(words)
    return [piece for sentence in sentences for piece in _cut(sentence) if piece]


def _segments(paragraph: str) -> Iterator[str]:
    """The library's segments, which make up the paragraph."""
    begin = 0
    while len(paragraph) - begin > _STRETCH:
        segments = sentencex.segment("en", paragraph[begin : begin + _STRETCH])
        if len(segments) > 1:
            done = segments[:-1]  # the last may go on
        else:
            space = paragraph.rfind(" ", begin, begin + _STRETCH)
            done = [paragraph[begin : space + 1 if space >= 0 else begin + _STRETCH]]
        yield from done
        begin += sum(map(len, done))
    yield from sentencex.segment("en", paragraph[begin:])


def _cut(sentence: str) -> list[str]:
    """The sentence in pieces of at most MAX_CHARS, cut between words where there are any."""
    pieces = []
    while len(sentence) > MAX_CHARS:
        space = sentence.rfind(" ", 1, MAX_CHARS + 1)
        end = space if space > 0 else MAX_CHARS
        pieces.append(sentence[:end])
        sentence = sentence[end:].lstrip(" ")
    return [*pieces, sentence]
