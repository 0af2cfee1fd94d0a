"""The vocabulary: the same in every process, BERT's layout, and text that looks like special tokens."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from data_prep.text.tokenizer import choose_alphabet, read_tokenizer, train_tokenizer
from dsparse.data.vocabulary import Vocabulary
from dsparse.errors import UserError
from tests.data.store_fixture import stdlib_documents

ROOT = Path(__file__).resolve().parents[3]
TRAIN_AND_HASH = """
import hashlib, sys
from collections import Counter
from data_prep.text.tokenizer import train_tokenizer
sentences = open(sys.argv[1], encoding="utf-8").read().splitlines()
trained = train_tokenizer([sentences], characters=Counter("".join(sentences)), vocab_size=700, num_sentences=9)
print(hashlib.sha256(trained.to_str().encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return [line for text in stdlib_documents()[:40] for line in text.splitlines() if line]


@pytest.fixture(scope="module")
def trained(sentences: list[str]) -> Tokenizer:
    return train(sentences)


def train(sentences: list[str], vocab_size: int = 700) -> Tokenizer:
    characters = Counter("".join(sentences))
    return train_tokenizer([sentences], characters=characters, vocab_size=vocab_size, num_sentences=9)


def test_another_process_trains_the_same(tmp_path: Path, sentences: list[str], trained: Tokenizer) -> None:
    """The library seeds its hash maps anew in each process, so one process alone would prove nothing."""
    (tmp_path / "text").write_text("\n".join(sentences), encoding="utf-8")
    command = [sys.executable, "-c", TRAIN_AND_HASH, str(tmp_path / "text")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(trained.to_str().encode()).hexdigest()


def test_layout_of_the_vocabulary(trained: Tokenizer) -> None:
    assert trained.get_vocab_size() == 700
    assert [trained.id_to_token(i) for i in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert trained.encode("the list").tokens == ["[CLS]", "the", "list", "[SEP]"]
    pair = trained.encode("The list", "a dictionary")
    assert pair.tokens[:4] == ["[CLS]", "the", "list", "[SEP]"] and pair.tokens[-1] == "[SEP]"
    assert pair.type_ids == [0] * 4 + [1] * (len(pair.tokens) - 4)


def test_pieces_join_to_words_again(trained: Tokenizer) -> None:
    encoded = trained.encode("Unsubscriptable ÉLAN, 2024!")
    assert any(token.startswith("##") for token in encoded.tokens)
    assert trained.decode(encoded.ids) == "unsubscriptable elan, 2024!"


def test_only_five_tokens_are_special(tmp_path: Path, trained: Tokenizer) -> None:
    trained.save(str(tmp_path / "t.json"))
    vocabulary = Vocabulary.read(tmp_path / "t.json")
    assert vocabulary.size == 700
    assert vocabulary.ordinary_ids.tolist() == list(range(5, 700))


def test_words_of_a_text_are_never_special(tmp_path: Path, trained: Tokenizer) -> None:
    trained.save(str(tmp_path / "t.json"))
    tokenizer = read_tokenizer(tmp_path / "t.json")
    tokens = tokenizer.encode("The [MASK] token", add_special_tokens=False).tokens
    assert "[MASK]" not in tokens and tokens[:2] == ["the", "["]


def test_a_given_tokenizer_neither_cuts_nor_pads(tmp_path: Path, trained: Tokenizer) -> None:
    given = Tokenizer.from_str(trained.to_str())
    given.enable_truncation(4)
    given.enable_padding(length=16)
    given.save(str(tmp_path / "t.json"))
    assert len(read_tokenizer(tmp_path / "t.json").encode("one two three " * 3, add_special_tokens=False).ids) >= 9


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(UserError, match="WordPiece"):
        read_tokenizer(tmp_path / "t.json")


def test_alphabet() -> None:
    characters = Counter({"a": 5, "A": 2, "é": 1, "b": 3, "c": 3, " ": 99, "\n": 99, "z": 1})
    assert choose_alphabet(characters, max_size=10) == ["a", "b", "c", "e", "z"]
    assert choose_alphabet(characters, max_size=2) == ["a", "b"]
    assert choose_alphabet(characters, max_size=4) == ["a", "b", "c", "e"]


def test_rare_characters_become_unknown() -> None:
    trained = train(["a common word"] * 50 + ["".join(map(chr, range(0x4E00, 0x4E80)))], vocab_size=512)
    assert "[UNK]" in trained.encode(chr(0x4E7F)).tokens
    assert "[UNK]" not in trained.encode("a common word").tokens
