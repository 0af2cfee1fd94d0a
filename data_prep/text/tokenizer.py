"""BERT's WordPiece tokenizer: trained on a corpus, or read from a file.

Training is the same in every run. The library's is not by itself: it numbers the characters in the order of a randomly
seeded hash map, breaks ties between merges by these numbers, and so ends in another vocabulary each time. Here the
alphabet is chosen and numbered first, by passing its characters as special tokens; the tokenizer that is kept is then
built from the vocabulary anew, and only BERT's five are special in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from dsparse.data.vocabulary import SPECIAL_TOKENS, Vocabulary

_CONTINUES = "##"
_MIN_ALPHABET = 96  # English in lower case and its punctuation
MIN_VOCAB_SIZE = 256
"""Room for the special tokens, the smallest alphabet twice (alone and going on a word) and some pieces."""


def train_tokenizer(
    sentences: Iterable[list[str]], *, characters: Counter[str], vocab_size: int, num_sentences: int
) -> Tokenizer:
    """Trains a vocabulary; the same sentences give the same one.

    Args:
        sentences: lists of sentences.
        characters: how often each occurs; the rarest are left out of the alphabet, and words with one become [UNK].
        vocab_size: word pieces, at least MIN_VOCAB_SIZE; a small corpus yields fewer.
        num_sentences: how many there are about, for the library's own use.
    """
    alphabet = choose_alphabet(characters, max_size=max(_MIN_ALPHABET, vocab_size // 16))
    first_pieces = [*SPECIAL_TOKENS.values(), *alphabet, *(_CONTINUES + character for character in alphabet)]
    learner = _bare_tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS["unk"]))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=first_pieces,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=_CONTINUES,
        show_progress=False,
    )
    learner.train_from_iterator(sentences, trainer, length=num_sentences)
    return bert_tokenizer(learner.get_vocab())


def choose_alphabet(characters: Counter[str], *, max_size: int) -> list[str]:
    """The most frequent characters as the tokenizer sees them, in the order of their code points.

    Args:
        characters: counts before normalisation.
        max_size: at most so many; of equally frequent ones the lower code point is kept.
    """
    normaliser = normalizers.BertNormalizer(lowercase=True)
    counts: Counter[str] = Counter()
    for character, count in characters.items():
        for normal in normaliser.normalize_str(character):
            if not normal.isspace():
                counts[normal] += count
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    return sorted(frequent[:max_size])


def bert_tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    """A tokenizer as BERT's: lower case, no accents, [CLS] A [SEP] B [SEP]."""
    tokenizer = _bare_tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL_TOKENS["unk"]))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS.values()))
    cls, sep = SPECIAL_TOKENS["cls"], SPECIAL_TOKENS["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])],
    )
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUES)
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """Reads a tokenizer.json for encoding a corpus.

    Raises:
        UserError: the file is missing or is neither WordPiece nor byte-level BPE with BERT's special tokens.
    """
    Vocabulary.read(path)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # "[MASK]" in a text about BERT is a word like others.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _bare_tokenizer(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
