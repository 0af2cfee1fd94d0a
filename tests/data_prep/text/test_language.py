"""Texts in other languages are told from English, and what is in doubt is kept."""

from __future__ import annotations

import sys

import pytest

from data_prep.text.language import LanguageId
from dsparse.errors import UserError

OTHERS = [
    "Der Fluss entspringt in den Bergen und fließt nach Westen, bevor er das Meer erreicht.",
    "Hij las de brief, maar hij begreep er geen woord van.",
    "Le fleuve prend sa source dans les montagnes et se jette dans la mer du Nord.",
    "La ciudad fue fundada en el siglo XIII y tiene hoy unos cuarenta mil habitantes.",
    "Gallia est omnis divisa in partes tres, quarum unam incolunt Belgae, aliam Aquitani.",
    "Город был основан в XIII веке и насчитывает около сорока тысяч жителей.",
    "この都市は十三世紀に建設され、現在の人口は約四万人である。",
]
ENGLISH = [
    "The river rises in the mountains and flows west before it reaches the sea.",
    '"What a fine thing for our girls!" said Mrs. Bennet.',
    "Goethe's Die Leiden des jungen Werthers appeared in 1774 and made its author famous overnight.",
    "Kyoto (京都) was the capital of Japan from 794 until 1868.",
    '"Miss Elizabeth Bennet."',
    "Syn: beef. boff",
    "",
    "1234 !",
]


@pytest.fixture(scope="module")
def english() -> LanguageId:
    pytest.importorskip("py3langid")
    return LanguageId("en")


@pytest.mark.parametrize("text", OTHERS)
def test_other_languages(text: str, english: LanguageId) -> None:
    assert english.is_other(text)


@pytest.mark.parametrize("text", ENGLISH)
def test_english_and_what_is_in_doubt(text: str, english: LanguageId) -> None:
    assert not english.is_other(text)


def test_the_beginning_is_enough(english: LanguageId) -> None:
    """So that a book takes no longer than an article."""
    assert english.is_other(OTHERS[0] * 30 + ENGLISH[0] * 10_000)
    assert not english.is_other(ENGLISH[0] * 30 + OTHERS[0] * 10_000)


def test_any_language_may_be_kept() -> None:
    pytest.importorskip("py3langid")
    german = LanguageId("de")
    assert not german.is_other(OTHERS[0])
    assert german.is_other(ENGLISH[0])
    with pytest.raises(UserError, match=r"^Expected one of the languages .*\bde\b.* Got 'english'; choose"):
        LanguageId("english")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(UserError, match="Got no such package; run `pip install py3langid`"):
        LanguageId("en")
