"""Encoding word by word gives what the tokenizer gives for the sentence, whatever the sentence is made of."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from data_prep.text import encoder
from data_prep.text.encoder import SentenceEncoder, is_by_word
from data_prep.text.tokenizer import read_tokenizer, train_tokenizer
from dsparse.data.vocabulary import Vocabulary, bytes_of
from tests.data.store_fixture import stdlib_documents

TEXT = "A naïve café in Zürich — 北京 and Москва: the end's near, isn't it? (Yes!) e-mail x@y.org #1 50% C++ ﬁ ½ Å"


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return [" ".join(line.split()) for text in stdlib_documents() for line in text.split("\n\n")]


@pytest.fixture(scope="module")
def tokenizer_path(sentences: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [*sentences, *[TEXT] * 50]
    characters = Counter("".join(texts))
    trained = train_tokenizer([texts], characters=characters, vocab_size=1500, num_sentences=len(texts))
    path = tmp_path_factory.mktemp("encoder") / "tokenizer.json"
    path.write_text(trained.to_str(), encoding="utf-8")
    return path


def expected(path: Path, sentences: list[str]) -> list[list[int]]:
    """What the library gives for whole sentences."""
    tokenizer = read_tokenizer(path)
    return [tokenizer.encode(sentence, add_special_tokens=False).ids for sentence in sentences]


def found(path: Path, sentences: list[str]) -> list[list[int]]:
    made = SentenceEncoder(path)
    return [np.frombuffer(ids, made.dtype).tolist() for ids in made.encode(sentences)]


def variant(path: Path, tmp_path: Path, change: Callable[[dict], None]) -> Path:  # type: ignore[type-arg]
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    made = tmp_path / "variant.json"
    made.write_text(json.dumps(content), encoding="utf-8")
    return made


def test_real_text(tokenizer_path: Path, sentences: list[str]) -> None:
    assert found(tokenizer_path, sentences) == expected(tokenizer_path, sentences)


def test_twice_is_the_same(tokenizer_path: Path, sentences: list[str]) -> None:
    """The second time every word is looked up."""
    made = SentenceEncoder(tokenizer_path)
    assert made.encode(sentences[:200]) == made.encode(sentences[:200])


WORDS = st.one_of(
    st.text(min_size=1, max_size=12),
    st.text(alphabet="aAbZ09_-.,'\"()[]#@", min_size=1, max_size=12),
    st.sampled_from(
        ["[MASK]", "[CLS]", "##ing", "İstanbul", "ΣΑΣ", "ﬃ", "e\u0301", "\u0301a", "a\u00a0b", "x\u2028y", "北京"]
    ),
    st.sampled_from(["a\tb", "\x00", "\x1c", "\ufffd", "\u200b", "ß", "Ⅻ", "🙂🙂", "a" * 101, "~" * 300, "¿qué?"]),
)


@settings(max_examples=600, deadline=None)
@given(words=st.lists(WORDS, min_size=0, max_size=12))
def test_any_text(tokenizer_path: Path, words: list[str]) -> None:
    sentence = " ".join(words)
    assert found(tokenizer_path, [sentence]) == expected(tokenizer_path, [sentence])


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False, None])
@pytest.mark.parametrize("clean_text", [True, False])
def test_any_bert_normalizer(
    tokenizer_path: Path, tmp_path: Path, lowercase: bool, strip_accents: bool | None, clean_text: bool
) -> None:
    def change(content: dict) -> None:  # type: ignore[type-arg]
        content["normalizer"] |= {"lowercase": lowercase, "strip_accents": strip_accents, "clean_text": clean_text}

    path = variant(tokenizer_path, tmp_path, change)
    assert is_by_word(json.loads(path.read_text()))
    texts = [TEXT, TEXT.upper(), "ÉCOLE e\u0301cole \x07bell a\x7fb", " two  spaces ", ""]
    assert found(path, texts) == expected(path, texts)


def test_what_is_not_by_word_is_encoded_whole(tokenizer_path: Path, tmp_path: Path) -> None:
    """A token of two words, which looking up words would miss."""

    def change(content: dict) -> None:  # type: ignore[type-arg]
        tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.add_tokens(["new york"])
        content |= json.loads(tokenizer.to_str())

    path = variant(tokenizer_path, tmp_path, change)
    assert not is_by_word(json.loads(path.read_text()))
    texts = ["in new york today", TEXT]
    assert found(path, texts) == expected(path, texts)
    assert len(found(path, ["new york"])[0]) == 1


def test_a_full_memory_changes_nothing(
    tokenizer_path: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = expected(tokenizer_path, sentences[:300])
    monkeypatch.setattr(encoder, "MAX_WORDS", 10)
    monkeypatch.setattr(encoder, "MAX_PIECES", 7)
    made = SentenceEncoder(tokenizer_path)
    assert [np.frombuffer(ids, made.dtype).tolist() for ids in made.encode(sentences[:300])] == wanted


@pytest.fixture(scope="module")
def bpe_path(sentences: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer with RoBERTa's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_bpe_is_quick_where_it_can_be(bpe_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SentenceEncoder(bpe_path)._quick is not None
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    assert SentenceEncoder(bpe_path)._quick is None


@pytest.mark.parametrize("is_quick", [True, False])
def test_bpe(bpe_path: Path, sentences: list[str], is_quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_quick:
        monkeypatch.setitem(sys.modules, "gigatoken", None)
    texts = [*sentences[:500], TEXT, "", "a <mask> b", "</s>"]
    assert found(bpe_path, texts) == expected(bpe_path, [" " + text for text in texts])
    # Sentences with what looks like special tokens keep the others from being encoded quickly, in one call.
    assert found(bpe_path, sentences[:500]) == expected(bpe_path, [" " + text for text in sentences[:500]])


@settings(max_examples=300, deadline=None)
@given(words=st.lists(WORDS, min_size=0, max_size=12))
def test_bpe_of_any_text(bpe_path: Path, words: list[str]) -> None:
    sentence = " ".join(words)
    assert found(bpe_path, [sentence, "a"]) == expected(bpe_path, [" " + sentence, " a"])


def test_words_of_bpe(bpe_path: Path) -> None:
    """What is masked as a whole."""
    vocabulary, tokenizer = Vocabulary.read(bpe_path), read_tokenizer(bpe_path)
    encoded = tokenizer.encode(" Unbelievably, 北京 isn't (far).", add_special_tokens=False)
    begins = [not vocabulary.continues_word_V[number] for number in encoded.ids]
    ends = [*np.flatnonzero(begins)[1:].tolist(), len(begins)]
    pieces = [bytes_of(piece) for piece in encoded.tokens]
    words = [b"".join(pieces[a:b]).decode() for a, b in zip(np.flatnonzero(begins).tolist(), ends, strict=True)]
    assert words[:6] == [" Unbelievably", ",", " 北京", " isn", "'t", " (far"]
    assert "".join(words) == " Unbelievably, 北京 isn't (far)."
    assert vocabulary.special_ids == {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": 4}
    assert not set(vocabulary.ordinary_ids.tolist()) & set(range(5))
