"""Pieces become words again, and what is not meant for a terminal never reaches it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from data_prep.inspection.words import Pieces, printable
from dsparse.data.manifest import TOKENIZER
from tests.data.small import write_tokenizer
from tests.data_prep.readable import SENTENCES, make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("words") / "store")


def test_sentences_come_back_as_they_were(store: Path) -> None:
    tokenizer, pieces = Tokenizer.from_file(str(store / TOKENIZER)), Pieces.read(store / TOKENIZER)
    encoded = [tokenizer.encode(sentence, add_special_tokens=False) for sentence in SENTENCES]
    assert sum(piece.startswith("##") for one in encoded for piece in one.tokens) > len(SENTENCES)
    assert [pieces.text(np.asarray(one.ids)) for one in encoded] == SENTENCES


def test_words_are_joined_where_masking_joins_them(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / TOKENIZER)
    pieces = Pieces.read(tmp_path / TOKENIZER)
    # A segment may be cut within a word; special tokens are 0 … 4, words 5 … 64, pieces that go on 65 … 99.
    ids = np.asarray([66, 5, 6, 65, 67, 7])
    assert [word.tolist() for word in pieces.words(ids)] == [[66], [5], [6, 65, 67], [7]]
    assert pieces.text(ids) == "p1 w0 w1p0p2 w2"
    assert pieces.texts[66] == "##p1" and pieces.texts[4] == "[MASK]"
    assert pieces.words(ids[:0]) == [] and pieces.text(ids[:0]) == ""


def test_an_id_without_a_piece_is_told(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / TOKENIZER)
    content = json.loads((tmp_path / TOKENIZER).read_text())
    content["model"]["vocab"]["far"] = 120
    (tmp_path / TOKENIZER).write_text(json.dumps(content))
    assert Pieces.read(tmp_path / TOKENIZER).text(np.asarray([5, 110, 120])) == "w0 [id 110] far"


def test_what_would_steer_a_terminal_is_replaced(tmp_path: Path) -> None:
    assert printable("a\x1b[31m\u202eb 河\n") == "a\ufffd[31m\ufffdb 河\ufffd"
    write_tokenizer(tmp_path / TOKENIZER)
    text = (tmp_path / TOKENIZER).read_text()
    (tmp_path / TOKENIZER).write_text(text.replace('"w0"', '"\\u001bw0"'))
    assert Pieces.read(tmp_path / TOKENIZER).texts[5] == "\ufffdw0"
