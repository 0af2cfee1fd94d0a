"""Books without what Project Gutenberg puts around them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources.base import Document, Skipped
from data_prep.sources.cutting import Piece
from data_prep.sources.gutenberg import prose_of_book, read_book
from data_prep.sources.parse import parse_source
from tests.data_prep.sources.inputs import SUFFIXES, items_of, problems_among, tears, write

HEADER = """The Project Gutenberg EBook of A Tale, by A. Writer

This eBook is for the use of anyone anywhere at no cost.

Title: A Tale

Character set encoding: UTF-8

"""
OLD_HEADER = """**The Project Gutenberg Etext of A Tale, by A. Writer**

*****These Etexts Are Prepared By Thousands of Volunteers!*****

***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is this "Small Print!" statement here?

*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*


"""
BOOK = """It was a dark night, and
the rain fell.

So it ended.
"""
PROSE = "It was a dark night, and the rain fell.\n\nSo it ended."
LICENCE = "\nUpdated editions will replace the previous one.\n"

WHOLE = {
    "since 2020": (
        HEADER + "*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\n\n" + BOOK
        + "\n*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***\n" + LICENCE
    ),
    "title of two lines": (
        HEADER + "*** START OF THIS PROJECT GUTENBERG EBOOK A TALE\nOF MANY THINGS ***\n\n" + BOOK
        + "\n***END OF THE PROJECT GUTENBERG EBOOK A TALE***\n" + LICENCE
    ),
    "both ends": (
        HEADER + "*** START OF THIS PROJECT GUTENBERG EBOOK A TALE ***\n\nProduced by John Doe and the Online\n"
        "Distributed Proofreading Team at http://www.pgdp.net\n\n" + BOOK
        + "\nEnd of the Project Gutenberg EBook of A Tale, by A. Writer\n\n"
        "*** END OF THIS PROJECT GUTENBERG EBOOK A TALE ***\n" + LICENCE
    ),
    "nineties": OLD_HEADER + BOOK + "\n\nEnd of Project Gutenberg's Etext of A Tale, by A. Writer\n" + LICENCE,
    "small print first": (
        OLD_HEADER + "This etext was prepared by Jane Doe, Chicago, Illinois.\n\n" + BOOK
        + "\nEnd of The Project Gutenberg Etext of A Tale\n"
    ),
    "small print behind": BOOK + "\nEnd of Project Gutenberg's A Tale\n\n"
        + "x" * 40_000 + "\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
    "stripped already": BOOK,
    "line ends of DOS": ("\ufeff" + HEADER + "*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\n" + BOOK
        + "*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***\n").replace("\n", "\r\n"),
    "notes of transcribers": (
        "*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\n\nE-text prepared by Jane Doe\n\n"
        "[Transcriber's Note: Spelling was kept.]\n\nTranscriber’s Notes\n\n"
        "Note: Project Gutenberg also has an HTML version.\n\nTranscribed from the 1890 edition by David Price\n\n"
        + BOOK
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_what_stands_around_the_book_goes(name: str) -> None:
    data = WHOLE[name].encode()
    assert list(read_book(Piece(Path("a.txt"), 1, data, is_whole=True))) == [Document("a.txt", PROSE)]


INSIDE = [
    ("[Illustration]\n\nHe came.\n\n[Illustration: A man, with\na hat]\n\nHe went.", "He came.\n\nHe went."),
    ("He [Pg 12] came {13} and\n\n14\n\n[Page 15]\n\n  - 16 -\n\nwent.[17]", "He came and\n\nwent."),
    ("One.\n\n       *       *       *       *       *\n\n-----\n\nTwo.", "One.\n\nTwo."),
    ("It was _very_ good, _so\ngood_ indeed.", "It was very good, so good indeed."),
    ("A snake_case_name stays.", "A snake_case_name stays."),
    ("[He is right.] In 1890\n1891 came.", "[He is right.] In 1890 1891 came."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "prose"), INSIDE)
def test_what_belongs_to_the_page_goes(text: str, prose: str) -> None:
    assert prose_of_book(text) == prose


def test_encodings() -> None:
    declared = HEADER.replace("UTF-8", "ISO-8859-1") + "*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\n\nCafé.\n"
    (latin,) = read_book(Piece(Path("a.txt"), 1, declared.encode("latin-1"), is_whole=True))
    # A copy that was converted still says what it was.
    (converted,) = read_book(Piece(Path("a.txt"), 1, declared.encode(), is_whole=True))
    (undeclared,) = read_book(Piece(Path("a.txt"), 1, "Café.".encode("latin-1"), is_whole=True))
    (binary,) = read_book(Piece(Path("a.txt"), 1, declared.encode("latin-1") + b"\0", is_whole=True))
    assert latin == converted == Document("a.txt", "Café.")
    assert undeclared[:2] == ("not UTF-8", "a.txt, line 1, byte 4 (0xe9)")
    assert binary[0] == "NUL bytes"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_book_is_a_document_whole_or_not_at_all(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.txt{suffix}", WHOLE["both ends"])
    empty = write(tmp_path / f"b.txt{suffix}", WHOLE["both ends"].replace(BOOK, ""))
    source = parse_source(f"gutenberg:{tmp_path}")
    assert items_of(source) == [Document(str(path), PROSE), Skipped("empty", str(empty))]
    if suffix:
        empty.unlink()
        data = path.read_bytes()
        for length in tears(len(data)):
            path.write_bytes(data[:length])
            items = items_of(parse_source(f"gutenberg:{tmp_path}"))
            assert [problem.reason for problem in problems_among(items)] == ["torn file"]
            assert len(items) == 1


@given(st.text(max_size=200) | st.text("*_[]{}-\n 1Illustration", max_size=200))
def test_any_text_gives_paragraphs(text: str) -> None:
    paragraphs = prose_of_book(text).split("\n\n")
    assert all("\n" not in paragraph for paragraph in paragraphs)
    assert paragraphs == [""] or all(paragraph.strip() for paragraph in paragraphs)


@pytest.mark.parametrize(
    "sign", ["[Illustration: ", "_", " ", "* ", "*** START OF THE PROJECT GUTENBERG ", "- ", "[Pg 1", "\n "]
)
def test_long_runs_take_no_longer_than_text(sign: str) -> None:
    """What grows with the square of the length would take hours."""
    prose_of_book(sign * (300_000 // len(sign)) + "x")
