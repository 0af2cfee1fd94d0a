"""Repairs the characters of a text: wrong decoding, HTML entities, control characters, white space.

ftfy knows how text breaks, but reads it with large expressions. Most paragraphs of English hold nothing that it would
touch, which `_already_sound` sees in a few passes of the interpreter's own; only the others go to ftfy.
"""

from __future__ import annotations

import re
import unicodedata

import ftfy
from ftfy.fixes import unescape_html

_CONFIG = ftfy.TextFixerConfig(
    # The text is plain by now, so an entity in it was escaped once too often; "auto" would keep those next to "a < b".
    unescape_html=True,
    # The author's quotation marks stay: they tell where a quotation opens and where it closes.
    uncurl_quotes=False,
    # With ligatures and full-width letters a tokenizer would know several spellings of a word.
    fix_latin_ligatures=True,
    fix_character_width=True,
    normalization="NFC",
    # Lists of what was done cost time and are read by nobody.
    explain=False,
)
_BLANK_LINE = re.compile(r"\n\s*\n")
# Unlike "\x85" and "\xa0", these are never part of a character decoded wrongly.
_ASCII_SPACES = re.compile(r"[\t-\r\x1c-\x1f ]+")
# Whatever ftfy would change in printable, composed text without entities matches this. Its signs of wrong decoding are
# two characters beyond ASCII in a row, but for a few letters before a space or a sign. Apostrophes, dashes and ellipses
# may be one of the two after most letters, and stand next to quotation marks; scripts into which no byte is decoded
# wrongly may be either; Greek and Cyrillic letters may be both.
_COMMON = "’–—…"
_TYPOGRAPHY = _COMMON + "‘“”"
_OTHER_SCRIPTS = r"\u0530-\u1fff\u2c00-\ud7ff\U00010000-\U0010ffff"
_PAIRED = "Α-Ωά-ώА-я"
_SUSPECT = re.compile(
    rf"(?![{_PAIRED}]{{2}})(?:"
    rf"[^\x00-\x7f{_TYPOGRAPHY}{_OTHER_SCRIPTS}][^\x00-\x7f{_COMMON}{_OTHER_SCRIPTS}]"
    rf"|[^\x00-\x7f{_COMMON}{_OTHER_SCRIPTS}][^\x00-\x7f{_TYPOGRAPHY}{_OTHER_SCRIPTS}])"
    r"|[ÂÃÎÐØÙ][^\x00-\x7f]|[ŒœÃÂ][^A-Za-z]|[\x80-\x9fĲĳŉǄ-ǌǱ-ǳﬀ-ﬆ\u3000\uff01-\uffef]"
)


def repair(text: str) -> str:
    """Repairs a text whose paragraphs are parted by blank lines.

    Returns:
        The paragraphs with a letter in them, parted by one blank line: composed characters (NFC), none that is decoded
        wrongly, no HTML entities, no control characters, single spaces.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    paragraphs = map(_repair_paragraph, _BLANK_LINE.split(text))
    return "\n\n".join(paragraph for paragraph in paragraphs if any(map(str.isalpha, paragraph)))


def _repair_paragraph(text: str) -> str:
    sound = _already_sound(text)
    return _repair_thoroughly(text) if sound is None else sound


def _already_sound(text: str) -> str | None:
    """The text without entities and with single spaces if nothing else is to be done, None if ftfy has to see it."""
    if "&" in text:
        text = unescape_html(text)
        if "&" in text and unescape_html(text) != text:  # escaped twice
            return None
    if not text.isascii() and (_SUSPECT.search(text) or not unicodedata.is_normalized("NFC", text)):
        return None
    text = text.replace("\n", " ")
    if "  " in text or not text.isprintable():
        text = " ".join(text.split())
    return text.strip() if text.isprintable() else None


def _repair_thoroughly(text: str) -> str:
    while True:
        text = ftfy.fix_text(_ASCII_SPACES.sub(" ", text), _CONFIG)
        kept = (character for character in text if character.isspace() or unicodedata.category(character)[0] != "C")
        repaired = " ".join("".join(kept).split())
        # What stood around a character that went may now be one that is to be composed, or an entity.
        if repaired == text:
            return text
        text = repaired
