"""Splits English prose into sentences by rule.

A sentence ends with . ! or ? (and closing quotes or brackets behind it) when a space and something that can begin a
sentence follow, unless the full stop belongs to an abbreviation or to initials. Text that stays in one piece
although it has two sentences does no harm here; a cut inside one does, so in doubt the text stays whole.
"""

from __future__ import annotations

import re

MAX_CHARS = 1000
"""A longer sentence is cut between two words: it is a list or a table that has lost its line breaks."""

_ABBREVIATIONS = """
    al approx apr assoc aug ca capt cf ch chap co col comp corp dec def dept dr e.g ed eds e.t.c eq eqs esp est ex excl
    feb ff fig figs gen gov i.e i.i.d inc incl jan jr jul jun lat lt ltd mar max min misc mr mrs ms mt no nos nov oct op
    orig p pp pos prof ref refs resp rev sec sen sep sept sgt sr st subj syn tab temp u.k u.s univ v ver viz vol vols vs
    w.r.t
"""
_IS_ABBREVIATION = frozenset(_ABBREVIATIONS.split())
# End of a sentence, a space, and what may begin the next: a capital or a digit, perhaps behind a quote or a bracket.
_BOUNDARY = re.compile(r"""(?<=[.!?])(["'”’)\]]*)\s+(?=["'“‘(\[]?[A-Z0-9À-ÖØ-Þ])""")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]*$")


def split_sentences(text: str) -> list[str]:
    """Splits a paragraph whose white space is single spaces.

    Returns:
        Sentences in order; joined by spaces they are the paragraph again.
    """
    sentences, begin = [], 0
    for match in _BOUNDARY.finditer(text):
        end = match.end(1)
        if not _is_abbreviation(text[begin : match.start()]):
            sentences.append(text[begin:end])
            begin = match.end()
    sentences.append(text[begin:])
    return [piece for sentence in sentences for piece in _cut(sentence) if piece]


def _is_abbreviation(text: str) -> bool:
    """Whether the full stop at the end belongs to the last word."""
    if not text.endswith("."):
        return False
    match = _LAST_WORD.search(text, 0, len(text) - 1)
    word = match.group() if match else ""
    is_initial = len(word) == 1 and word.isupper() and word != "I"
    return is_initial or word.lower() in _IS_ABBREVIATION


def _cut(sentence: str) -> list[str]:
    """The sentence in pieces of at most MAX_CHARS, cut between words where there are any."""
    pieces = []
    while len(sentence) > MAX_CHARS:
        space = sentence.rfind(" ", 1, MAX_CHARS + 1)
        end = space if space > 0 else MAX_CHARS
        pieces.append(sentence[:end])
        sentence = sentence[end:].lstrip(" ")
    return [*pieces, sentence]
