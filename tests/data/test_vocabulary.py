"""What is read from a tokenizer.json, and which files are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsparse.data.vocabulary import Vocabulary, bytes_of
from dsparse.errors import UserError
from tests.data.small import write_tokenizer

SPECIALS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}


def test_read(tmp_path: Path) -> None:
    vocabulary = write_tokenizer(tmp_path / "tokenizer.json", num_words=3, num_pieces=2)
    assert vocabulary.size == 10
    assert vocabulary.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert np.flatnonzero(vocabulary.continues_word_V).tolist() == [8, 9]
    assert vocabulary.ordinary_ids.tolist() == [5, 6, 7, 8, 9]
    assert vocabulary.sha256 == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()


def test_ids_in_any_order_with_gaps_and_more_specials(tmp_path: Path) -> None:
    model = {"vocab": {"a": 30, "##b": 7, **SPECIALS}, "continuing_subword_prefix": "##"}
    added = [{"id": 31, "content": "[DOC]", "special": True}, {"id": 32, "content": "zebra", "special": False}]
    (tmp_path / "t.json").write_text(json.dumps({"model": model, "added_tokens": added}))
    vocabulary = Vocabulary.read(tmp_path / "t.json")
    assert vocabulary.size == 33
    assert 31 not in vocabulary.ordinary_ids and {7, 30, 32} <= set(vocabulary.ordinary_ids.tolist())
    assert np.flatnonzero(vocabulary.continues_word_V).tolist() == [7]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "WordPiece"),
        ([], "WordPiece"),
        ({"model": {"vocab": [["a", -1.0]]}}, "WordPiece"),
        ({"model": {"vocab": {**SPECIALS, "a": 5}}}, "no prefix"),
        ({"model": {"vocab": {"a": 5}, "continuing_subword_prefix": "##"}}, "[PAD], [UNK], [CLS], [SEP], [MASK]"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError) as error:
        Vocabulary.read(path)
    assert words in str(error.value) and str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none"):
        Vocabulary.read(tmp_path / "t.json")


def byte_level(tmp_path: Path, **changes: Any) -> Path:
    vocab = {"Ġthe": 7, "ing": 8, ",": 9, "Ã©": 10, "Ġ": 11, "1": 12}
    names = {"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3, "<mask>": 4}
    splitter = {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}
    content = {"model": {"type": "BPE", "vocab": {**names, **vocab}}, "pre_tokenizer": splitter} | changes
    (tmp_path / "t.json").write_text(json.dumps(content))
    return tmp_path / "t.json"


def test_byte_level_bpe(tmp_path: Path) -> None:
    vocabulary = Vocabulary.read(byte_level(tmp_path))
    assert vocabulary.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert np.flatnonzero(vocabulary.continues_word_V).tolist() == [8, 10, 12]


def test_bpe_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prefix"):
        Vocabulary.read(byte_level(tmp_path, pre_tokenizer={"type": "Metaspace"}))
    with pytest.raises(UserError, match="no prefix"):
        Vocabulary.read(byte_level(tmp_path, pre_tokenizer=None))


def test_each_byte_has_a_character() -> None:
    assert bytes_of("Ġhi") == b" hi" and bytes_of("Ã©").decode() == "é"
    assert bytes_of("北").decode() == "北"
