"""Where sentences end, by example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sentences import MAX_CHARS, split_sentences

EXAMPLES = [
    ("One sentence.", ["One sentence."]),
    ("It works. It is fast! Is it? Yes.", ["It works.", "It is fast!", "Is it?", "Yes."]),
    ("See e.g. Smith et al. 2018 for it.", ["See e.g. Smith et al. 2018 for it."]),
    ("Use numbers, i.e. Real ones. Then stop.", ["Use numbers, i.e. Real ones.", "Then stop."]),
    ("Dr. J. R. Smith wrote it. We read it.", ["Dr. J. R. Smith wrote it.", "We read it."]),
    ("So am I. You too.", ["So am I.", "You too."]),
    ("Version 3.11 is out. 2.7 is not.", ["Version 3.11 is out.", "2.7 is not."]),
    ("Pi is 3.14 exactly.", ["Pi is 3.14 exactly."]),
    ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
    ("(It was late.) He left.", ["(It was late.)", "He left."]),
    ("Wait... what? lower case goes on. ok", ["Wait... what? lower case goes on. ok"]),
    ("Call os.path.join now. Done.", ["Call os.path.join now.", "Done."]),
    ("Été fini. Élan vital.", ["Été fini.", "Élan vital."]),
    ("No full stop", ["No full stop"]),
    ("", []),
]


@pytest.mark.parametrize(("text", "sentences"), EXAMPLES, ids=[text[:30] for text, _ in EXAMPLES])
def test_examples(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


WORDS = st.lists(st.text(alphabet="abcABC.!?\"'()019", min_size=1, max_size=8), min_size=1, max_size=60)


@given(words=WORDS)
def test_nothing_is_lost(words: list[str]) -> None:
    text = " ".join(words)
    sentences = split_sentences(text)
    assert " ".join(sentences) == text
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)


@given(words=st.lists(st.text(alphabet="ab", min_size=1, max_size=300), min_size=1, max_size=40))
def test_long_ones_are_cut_between_words(words: list[str]) -> None:
    pieces = split_sentences(" ".join(words))
    assert " ".join(pieces) == " ".join(words)
    assert max(map(len, pieces)) <= MAX_CHARS


def test_a_word_longer_than_a_sentence_is_cut() -> None:
    assert [len(piece) for piece in split_sentences("x" * (2 * MAX_CHARS + 1))] == [MAX_CHARS, MAX_CHARS, 1]
