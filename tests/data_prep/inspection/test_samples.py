"""What is printed of a sample is what training gets: undone, the marks give the store's text; and they agree with the
labels."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data_prep.inspection.samples import Mark, paragraph, read_sample, show_samples
from data_prep.inspection.words import Pieces
from dsparse.data.loader import PretrainingData, Sample
from dsparse.data.manifest import TOKENIZER
from dsparse.data.masking import NOT_LABELLED
from tests.data_prep.readable import SENTENCES, documents, make_store

NUM_SAMPLES = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("samples") / "store")


@pytest.fixture(scope="module")
def data(store: Path) -> PretrainingData:
    return PretrainingData(store, seq_length=64, seed=3)


@pytest.fixture(scope="module")
def pieces(store: Path) -> Pieces:
    return Pieces.read(store / TOKENIZER)


def undone(text: str) -> str:
    """Printed text without marks."""
    return re.sub(r"⟦(.[^→=⟧]*)(?:→[^⟧]*|=)?⟧", r"\1", text)


def segments_of(sample: Sample) -> list[np.ndarray]:
    """Original ids of A and B, found by their separators."""
    ids = np.where(sample["labels"] == NOT_LABELLED, sample["input_ids"], sample["labels"])
    (first, second) = np.flatnonzero(ids == 3)
    return [ids[1:first], ids[first + 1 : second]]


def printed(data: PretrainingData, pieces: Pieces, *, width: int, num_samples: int = NUM_SAMPLES) -> str:
    stream = io.StringIO()
    show_samples(data, pieces, Console(file=stream, width=width), epoch=0, num_samples=num_samples)
    return stream.getvalue()


def test_the_printed_words_are_those_of_the_store(data: PretrainingData, pieces: Pieces) -> None:
    """Undone, each paragraph is the segment; and the segment is text that the store was made of."""
    shown = printed(data, pieces, width=70)
    blocks = re.findall(r"^[AB](?:  \(.*\))?\n((?:    .*\n)+)", shown, re.MULTILINE)
    num_samples = min(NUM_SAMPLES, data.num_samples_per_epoch)
    assert len(blocks) == 2 * num_samples > 20
    written = [" ".join(document) for document in documents(30, 30, SENTENCES)]
    num_as_written = 0
    for index in range(num_samples):
        for block, ids in zip(blocks[2 * index :], segments_of(data.sample(0, index)), strict=False):
            text = undone(" ".join(block.split()))
            assert text == pieces.text(ids)
            # A segment cut within a word has lost what tells its pieces from words, so spaces are not compared there.
            assert any(text.replace(" ", "") in document.replace(" ", "") for document in written)
            num_as_written += any(text in document for document in written)
    assert num_as_written > num_samples // 2


def test_lines_are_wrapped_and_end_without_spaces(data: PretrainingData, pieces: Pieces) -> None:
    lines = printed(data, pieces, width=60).splitlines()
    assert max(map(len, lines)) <= 60 and max(len(line) for line in lines if line.startswith(" ")) > 45
    assert all(line == line.rstrip() for line in lines)


def test_marks_agree_with_labels(data: PretrainingData, pieces: Pieces) -> None:
    seen, num_in_part = dict.fromkeys(Mark, 0), 0
    for index in range(data.num_samples_per_epoch):
        sample = data.sample(0, index)
        shown = read_sample(sample, pieces)
        is_text = (sample["attention_mask"] == 1) & ~np.isin(np.arange(64), _places_of_special(sample))
        places = iter(np.flatnonzero(is_text).tolist())
        for word in [*shown.segments[0], *shown.segments[1]]:
            here = [next(places)]
            while pieces.word(_originals(sample, here)) != word.text:
                here.append(next(places))
            inputs, labels = sample["input_ids"][here], sample["labels"][here]
            is_labelled = labels != NOT_LABELLED
            assert is_labelled.all() == is_labelled.any() == (word.mark is not Mark.NONE)
            assert (word.mark is Mark.MASKED) == (inputs == 4).all()
            assert (word.mark is Mark.KEPT) == (inputs == labels).all()
            if word.mark is Mark.REPLACED:
                assert word.seen.split("·") == [pieces.texts[number] for number in inputs]
            seen[word.mark] += 1
            num_in_part += word.mark is Mark.REPLACED and len(here) > 1
        assert next(places, None) is None
    assert min(seen.values()) > 5 and num_in_part > 5


def _places_of_special(sample: Sample) -> list[int]:
    originals = _originals(sample, list(range(64)))
    return [0, *(place for place, number in enumerate(originals) if number == 3)]


def _originals(sample: Sample, places: list[int]) -> list[int]:
    labels = sample["labels"][places]
    return list(np.where(labels == NOT_LABELLED, sample["input_ids"][places], labels).tolist())


def test_what_is_said_of_a_sample(data: PretrainingData, pieces: Pieces) -> None:
    """Both kinds of pairs, and samples with padding, come up."""
    shown = printed(data, pieces, width=100)
    samples = [data.sample(0, index) for index in range(min(NUM_SAMPLES, data.num_samples_per_epoch))]
    counts = re.findall(r"(\d+) tokens, (\d+) of padding, (\d+) to be predicted", shown)
    expected = [
        (int(one["attention_mask"].sum()), int((1 - one["attention_mask"]).sum()), int((one["labels"] >= 0).sum()))
        for one in samples
    ]
    assert [tuple(map(int, found)) for found in counts] == expected
    relations = [found == "B follows A" for found in re.findall(r"\((B follows A|B is from another document)\)", shown)]
    assert relations == [int(one["next_sentence_label"]) == 0 for one in samples]
    assert {*relations} == {True, False} and {padding > 0 for _, padding, _ in expected} == {True, False}
    assert shown.count("hidden by [MASK]") == 1


def test_no_more_samples_than_an_epoch_has(data: PretrainingData, pieces: Pieces) -> None:
    shown = printed(data, pieces, width=100, num_samples=10**6)
    assert shown.count("to be predicted\n") == data.num_samples_per_epoch


def test_colour_on_a_terminal_alone(data: PretrainingData, pieces: Pieces) -> None:
    words = read_sample(data.sample(0, 0), pieces).segments[0]
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, width=500, color_system="standard", _environ={}).print(paragraph(words))
    assert re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue()).strip() == paragraph(words).plain
    assert re.search(r"\x1b\[1;3\dm⟦", stream.getvalue())
    assert "\x1b" not in printed(data, pieces, width=80)
