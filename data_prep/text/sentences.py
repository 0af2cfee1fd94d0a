"""Splits paragraphs into sentences.

The rules are those of sentencex, the segmenter that Wikimedia keeps for its translation tools: on treebanks annotated
by hand it is as accurate as any of the libraries that benchmarks/sentence_splitters.py compares, and the fastest.
"""

from __future__ import annotations

import sentencex

MAX_CHARS = 1000
"""A longer sentence is cut between two words: it is a list or a table that has lost its line breaks."""


def split_sentences(paragraph: str) -> list[str]:
    """Splits a paragraph of English whose white space is single spaces.

    Returns:
        Sentences in order; joined by spaces they are the paragraph again, but where a word is longer than MAX_CHARS.
    """
    sentences, words = [], ""
    for segment in sentencex.segment("en", paragraph):
        words += segment
        # It also ends a sentence at "end.Next", which more often is a name of something than a lost space.
        if segment.endswith(" "):
            sentences.append(words[:-1])
            words = ""
    sentences.append(words)
    return [piece for sentence in sentences for piece in _cut(sentence) if piece]


def _cut(sentence: str) -> list[str]:
    """The sentence in pieces of at most MAX_CHARS, cut between words where there are any."""
    pieces = []
    while len(sentence) > MAX_CHARS:
        space = sentence.rfind(" ", 1, MAX_CHARS + 1)
        end = space if space > 0 else MAX_CHARS
        pieces.append(sentence[:end])
        sentence = sentence[end:].lstrip(" ")
    return [*pieces, sentence]
