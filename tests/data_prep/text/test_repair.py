"""Broken text is repaired, sound text is left alone, and the quick way gives what the thorough one gives."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES
from ftfy.chardata import LIGATURES, WIDTH_MAP
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.text.repair import _already_sound, _repair_thoroughly, repair

REPAIRED = [
    ("It doesnâ€™t matter.", "It doesn’t matter."),
    ("sÃ³ and voilÃ\xa0 and Ã\xad", "só and voilà and í"),
    ("Tom &amp; Jerry &lt; &eacute; &#8212; &amp;quot;so&amp;quot; where a < b", 'Tom & Jerry < é — "so" where a < b'),
    ("AT&T; R&D stay as &nothing; is", "AT&T; R&D stay as &nothing; is"),
    ("ﬁnd the eﬃcient Ｗａｙ", "find the efficient Way"),
    ("“Curly” ‘quotes’ stay… – so do – dashes—all", "“Curly” ‘quotes’ stay… – so do – dashes—all"),
    ("a\x00b\x1b[31mred\x1b[0m\u200bc\ufeffd soft\xadhyphen \ue000private", "abredcd softhyphen private"),
    ("e\u0301 and e\u200d\u0301", "é and é"),
    ("tabs\tand\xa0spaces\u2003 \u3000of\r\nall\u2028kinds ", "tabs and spaces of all kinds"),
    ("One\ngoes on.\n\n \t\nTwo.\r\n\r\n\r\nThree.\n\n----\n\n1. 2. 3²\n\n", "One goes on.\n\nTwo.\n\nThree."),
    ("Ein Bär & zwei Œuvres, naïve façade; Ångström", "Ein Bär & zwei Œuvres, naïve façade; Ångström"),
    ("Москва и 東京 and العربية 👍", "Москва и 東京 and العربية 👍"),
    ("", ""),
    ("\n\n \n", ""),
]


@pytest.mark.parametrize(("broken", "repaired"), REPAIRED, ids=[repaired[:20] for _, repaired in REPAIRED])
def test_examples(broken: str, repaired: str) -> None:
    assert repair(broken) == repaired


# What ftfy looks for, and what stands around it in text.
CRITICAL = "".join(MOJIBAKE_CATEGORIES[name].replace("-", "") for name in MOJIBAKE_CATEGORIES)
CRITICAL += (
    "".join(map(chr, range(0x80, 0x100))) + "‘’“”–—…ΒΓΞΟВГРСвЂўάώяА" + "".join(map(chr, (*LIGATURES, *WIDTH_MAP)))
)
ENTITIES = ["&amp;", "&lt;", "&nbsp;", "&shy;", "&#10;", "&#x85;", "&NewLine;", "&Atilde;", "&nothing;", "&#8217;", "&"]
PIECES = st.one_of(
    st.sampled_from(CRITICAL), st.sampled_from("aZ .,?!'\"-;#<1\n\t\x1b[m"), st.characters(), st.sampled_from(ENTITIES)
)
TEXT = st.lists(PIECES).map("".join)


@given(text=TEXT)
@example("?é?œ ").via("one letter is a sign of wrong decoding, another was decoded wrongly")
@example("вЂЋa").via("Cyrillic letters that are a mark of direction decoded wrongly")
@example("a Â b").via("a letter that is a sign of wrong decoding by itself")
@example("\x1fa\x1cb").via("control characters that are white space to Python")
@example("a\r").via("white space at the end")
def test_the_quick_way_is_the_thorough_one(text: str) -> None:
    sound = _already_sound(text)
    assert sound is None or sound == _repair_thoroughly(text)


def test_pairs_and_triples_of_critical_characters() -> None:
    """Random text seldom holds the few characters in a row that ftfy goes by."""
    letters = sorted(set(CRITICAL))
    texts = [f"a{one}{other}" for one, other in itertools.product(["", " ", "a", *letters], letters)]
    texts += [f" {one}{other}a" for one, other in itertools.product(letters, letters)]
    texts += [f"{one}{mark}{other}" for one, mark, other in itertools.product("a é", "‘’“”–—…©", letters)]
    sound = [text for text in texts if _already_sound(text) is not None]
    assert len(sound) > 500
    assert [text for text in sound if _already_sound(text) != _repair_thoroughly(text)] == []


def test_english_takes_the_quick_way() -> None:
    """Or repairing would take twenty times as long."""
    for text in [
        "Plain words,\n wrapped & indented.",
        "“It’s naïve…”—so 30 °C, £5 – or\xa0not?",
        "Zoë’s café; Æsop.",
        "Ὅμηρος, Москва, 東京 👍🏽",
    ]:
        assert _already_sound(text) is not None


@given(text=TEXT)
def test_what_is_promised(text: str) -> None:
    repaired = repair(text)
    assert unicodedata.is_normalized("NFC", repaired)
    for paragraph in repaired.split("\n\n") if repaired else []:
        assert any(map(str.isalpha, paragraph))
        assert " ".join(paragraph.split()) == paragraph
        assert paragraph.isprintable()
    assert repair(repaired) == repaired
