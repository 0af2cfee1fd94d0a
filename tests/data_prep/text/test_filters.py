"""What is dropped and why, by example and against plain definitions of the measures."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.text import filters
from data_prep.text.filters import Filters, repeated_line_share, repeated_ngram_share
from dsparse.errors import UserError

PROSE = (
    "The river rises in the mountains and flows west through three counties before it reaches the sea.\n\n"
    "Its valley was settled early: mills, farms and a priory stood there by 1150, and the road still follows it."
)
REASONS = {
    "no text": ("", "too short"),
    "white space": (" \n\xa0 ", "too short"),
    "one word": ("Word.", "too short"),
    "words without end": ("x" * 500 + " of a word is no prose", "long words"),
    "Chinese": ("这座城市建于十三世纪,现在约有四万居民。" * 3 + " a b c d e", "long words"),
    "table": ("Year 1950 1960 1970 | 12.5 13.7 18.9 | 22 31 40 | total: 35.1 44.7 58.9", "few letters"),
    "signs beyond ASCII": ("→ ← ↑ ↓ • and so ○ ● □ ■ ◆ ◇ ★ ☆ ♠ ♣", "few letters"),
    "menu": ("Home page\n\nAbout us all\n\nHome page\n\nNews and views\n\nHome page\n\nHome page", "repetitive lines"),
    "boilerplate": (f"{PROSE} {PROSE}", "repetitive n-grams"),
    "prose": (PROSE, None),
    "Greek prose": ("Η πόλη ιδρύθηκε τον δέκατο τρίτο αιώνα και έχει σήμερα σαράντα χιλιάδες κατοίκους.", None),
    "verse with a refrain": (
        "Row, row, row your boat,\ngently down the stream;\nmerrily, merrily, it is but a dream.",
        None,
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_reasons(name: str) -> None:
    text, reason = REASONS[name]
    assert Filters().why_dropped(text) == reason


LIMITS = [
    (Filters(min_words=37), Filters(min_words=38), "too short"),
    (Filters(max_words=37), Filters(max_words=36), "too long"),
    (Filters(max_mean_word_length=4.6), Filters(max_mean_word_length=4.5), "long words"),
    (Filters(min_letter_share=0.94), Filters(min_letter_share=0.96), "few letters"),
]


@pytest.mark.parametrize(("wide", "narrow", "reason"), LIMITS, ids=[reason for *_, reason in LIMITS])
def test_limits(wide: Filters, narrow: Filters, reason: str) -> None:
    assert wide.why_dropped(PROSE) is None
    assert narrow.why_dropped(PROSE) == reason


def test_none_leaves_a_filter_out() -> None:
    nothing = Filters(**{field.name: None for field in dataclasses.fields(Filters)})
    assert [nothing.why_dropped(text) for text, _ in REASONS.values() if text.strip()] == [None] * (len(REASONS) - 2)


def test_language() -> None:
    pytest.importorskip("py3langid")
    english = pickle.loads(pickle.dumps(Filters(language="en")))
    assert english.why_dropped(PROSE) is None
    assert english.why_dropped(REASONS["Greek prose"][0]) == "other language"


BAD = [
    ({"min_letter_share": 60}, r"min_letter_share from 0 to 1\. Got 60"),
    ({"max_repeated_line_share": -0.1}, r"max_repeated_line_share from 0 to 1\. Got -0\.1"),
    ({"max_repeated_ngram_share": float("nan")}, r"max_repeated_ngram_share from 0 to 1\. Got nan"),
    ({"max_words": -1}, r"max_words of 0 or more\. Got -1"),
    ({"min_words": 9, "max_words": 8}, r"min_words <= max_words\. Got 9 > 8"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=f"^Expected {message}; "):
        Filters(**options)  # type: ignore[arg-type]


def test_a_language_that_cannot_be_told_is_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(language: str) -> None:
        raise UserError(f"Got {language}")

    monkeypatch.setattr(filters, "_language_id", fail)
    with pytest.raises(UserError, match="Got xx"):
        Filters(language="xx")


def plain_ngram_share(words: Sequence[str], size: int) -> float:
    """By the definition, without hashes."""
    seen: set[tuple[str, ...]] = set()
    repeated: set[int] = set()
    for begin in range(len(words) - size + 1):
        ngram = tuple(words[begin : begin + size])
        if ngram in seen:
            repeated.update(range(begin, begin + size))
        seen.add(ngram)
    return len(repeated) / len(words) if words else 0.0


@given(words=st.lists(st.sampled_from("abc"), max_size=60), size=st.integers(1, 10))
def test_share_of_repeated_ngrams(words: list[str], size: int) -> None:
    assert repeated_ngram_share(words, size) == pytest.approx(plain_ngram_share(words, size))


def test_order_matters_for_ngrams() -> None:
    assert repeated_ngram_share(list("abcdbadc"), 2) == 0
    assert repeated_ngram_share(list("abcdabcd"), 2) == 0.5


def test_a_book_is_judged_by_its_beginning() -> None:
    words = [str(number) for number in range(1 << 16)]
    assert repeated_ngram_share(words + words) == 0
    assert repeated_ngram_share(words[: 1 << 15] + words) == pytest.approx(0.5)


def test_share_of_repeated_lines() -> None:
    assert repeated_line_share("") == 0
    assert repeated_line_share("a\n\nb\na\n\n\na") == 0.5


CHARACTERS = st.text(
    st.one_of(st.characters(), st.sampled_from("abcé.,12 \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0")), min_size=1
)


@given(
    text=CHARACTERS.filter(str.strip), limit=st.sampled_from([0.0, 0.3, 0.6, 1.0]), length=st.sampled_from([1, 2, 5])
)
@example(text="a\tb\nc\vd\fe\rf\x1cg\x1dh\x1ei\x1fj k", limit=1.0, length=1).via("every white space of ASCII")
def test_characters_by_the_definition(text: str, limit: float, length: int) -> None:
    """Although English is judged without looking at what is beyond ASCII."""
    printed = [character for character in text if not character.isspace()]
    letters = [character for character in text if character.isalpha()]
    dropped = "few letters" if len(letters) < limit * len(printed) else None
    assert Filters(min_words=None, min_letter_share=limit, max_mean_word_length=None).why_dropped(text) == dropped
    dropped = "long words" if len(printed) > length * len(text.split()) else None
    assert Filters(min_words=None, min_letter_share=None, max_mean_word_length=length).why_dropped(text) == dropped
