"""Where sentences end: by example, on a hand-checked set, and what holds for any text."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sentence_splitters import boundaries, read_checked, score
from data_prep.text.sentences import MAX_CHARS, split_sentences

EXAMPLES = [
    ["One sentence."],
    ["It works.", "It is fast!", "Is it?", "Yes."],
    ["See e.g. Smith et al. 2018 for it."],
    ["Use numbers, i.e. Real ones.", "Then stop."],
    ["Dr. J. R. Smith wrote it.", "We read it."],
    ["Version 3.11 is out.", "2.7 is not."],
    ['He said "Stop."', "Then he left."],
    ["Call os.path.join now.", "Done."],
    ["Été fini.", "Élan vital."],
    ["No full stop"],
    ["No.", "You will not.", "No. 5 will."],
    ["It is in the U.S. Army's hands.", "It is in the U.S.", "The army has it."],
    ["Plan A. B. Dole made it.", "We chose plan B.", "It works."],
    ["1. Read it.", "2. Write it."],
    ["I have . . . paid More . . . .", "Then he left .", "And so on ."],
    ["Is it c. 1850?", "It is from 48 B.C.", "Historians agree."],
    ["Buy fruit.", "2. Take an apple.", "(b) Eat it.", "iv) Go on."],
    [],
]


@pytest.mark.parametrize("sentences", EXAMPLES, ids=" ".join)
def test_examples(sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences)) == sentences


def test_accuracy_on_the_checked_set() -> None:
    """As good as when it was last measured; benchmarks/sentence_splitters.py shows it next to others."""
    paragraphs = read_checked()
    result = score(split_sentences, paragraphs)
    assert (len(paragraphs), sum(map(len, paragraphs))) == (95, 380)
    # Most of what is missing lies inside quotations, which are left whole.
    assert result.num_exact >= 44
    assert result.f1 >= 0.84


def test_the_score_counts_boundaries() -> None:
    checked = [["One two.", "Three.", "Four."], ["Five."]]
    result = score(lambda paragraph: paragraph.replace(". F", ".\nF").replace("One ", "One\n").split("\n"), checked)
    assert (result.num_found, result.num_true, result.num_right) == (2, 2, 1)
    assert (result.precision, result.recall, result.f1) == (0.5, 0.5, 0.5)
    assert (result.num_exact, result.num_paragraphs) == (1, 2)
    assert boundaries(["One two. ", " ", "Three."]) == boundaries(["Onetwo.", "Three. "]) == {7}


WORDS = st.lists(
    st.one_of(
        st.text(alphabet="abcABCI.!?…\"'()”’[]019-—", min_size=1, max_size=8),
        st.sampled_from(["Mr.", "U.S.", "etc.", "No.", "said", "The", ".", "..."]),
        st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=5),
    ),
    max_size=300,
)


@given(words=WORDS)
def test_nothing_is_lost(words: list[str]) -> None:
    paragraph = " ".join(words)
    sentences = split_sentences(paragraph)
    assert " ".join(sentences) == paragraph
    assert all(sentence == sentence.strip(" ") and 0 < len(sentence) <= MAX_CHARS for sentence in sentences)


@given(lengths=st.lists(st.integers(1, MAX_CHARS), min_size=1, max_size=40))
def test_long_ones_are_cut_between_words(lengths: list[int]) -> None:
    text = " ".join("x" * length for length in lengths)
    pieces = split_sentences(text)
    assert " ".join(pieces) == text
    assert max(map(len, pieces)) <= MAX_CHARS
    assert all(len(one) + len(other) >= MAX_CHARS for one, other in itertools.pairwise(pieces))


def test_a_word_longer_than_a_sentence_is_cut() -> None:
    assert [len(piece) for piece in split_sentences("x" * (2 * MAX_CHARS + 1))] == [MAX_CHARS, MAX_CHARS, 1]


@given(text=st.text())
def test_any_text_is_split(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


ODD = [
    "x",
    ".",
    ". ",
    '"',
    '!" A',
    ".[1]",
    "A.",
    "A. ",
    "(",
    '. "',
    "שלום. ",
    "مرحبا. ",
    "👍! ",
    "\u0301",
    "Mr. ",
    "?!…",
    "I. ",
]


@pytest.mark.parametrize("piece", ODD)
def test_a_megabyte_of_anything_is_done_at_once(piece: str) -> None:
    text = (piece * (1_000_000 // len(piece))).strip()
    begin = time.perf_counter()
    sentences = split_sentences(text)
    # It takes some tenths of a second; squared time would be hours.
    assert time.perf_counter() - begin < 30
    assert "".join(sentences).replace(" ", "") == text.replace(" ", "")
