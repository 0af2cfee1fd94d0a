"""Samples as training sees them, for people: words, with a mark at each one that is to be predicted.

A mark shows the word as it was and what the model gets in its place. Its pieces meet their fates one by one, so a word
of several may be partly hidden; it is then shown piece by piece. No mark holds a space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from data_prep.inspection.words import Pieces, spaces_before
from dsparse.data.loader import PretrainingData, Sample
from dsparse.data.masking import NOT_LABELLED

_INDENT = 4
_BETWEEN_PIECES = "·"


class Mark(Enum):
    """What has become of a word."""

    NONE = "none"
    MASKED = "masked"
    REPLACED = "replaced"
    KEPT = "kept"


_STYLES = {Mark.NONE: "", Mark.MASKED: "bold cyan", Mark.REPLACED: "bold magenta", Mark.KEPT: "bold green"}


@dataclass(frozen=True)
class Word:
    """A word of a sample."""

    text: str
    """As it is in the store."""
    mark: Mark = Mark.NONE
    seen: str = ""
    """What the model gets, piece by piece, where that is neither the word nor [MASK] throughout."""

    def __str__(self) -> str:
        """The word with its mark."""
        match self.mark:
            case Mark.NONE:
                return self.text
            case Mark.MASKED:
                return f"⟦{self.text}⟧"
            case Mark.REPLACED:
                return f"⟦{self.text}→{self.seen}⟧"
            case Mark.KEPT:
                return f"⟦{self.text}=⟧"


@dataclass(frozen=True, kw_only=True)
class ReadSample:
    """A sample in words."""

    segments: tuple[list[Word], list[Word]]
    """A and B."""
    b_follows: bool
    """Whether B goes on where A ends; else it is from another document."""
    num_tokens: int
    """[CLS] and [SEP] included."""
    num_padding: int
    num_labelled: int
    """Tokens that are to be predicted."""


def read_sample(sample: Sample, pieces: Pieces) -> ReadSample:
    """A sample in words.

    Args:
        sample: of `PretrainingData.sample`.
        pieces: of the store's vocabulary.
    """
    ids_T, labels_T, is_used_T = sample["input_ids"], sample["labels"], sample["attention_mask"] == 1
    is_b_T = sample["token_type_ids"] == 1
    # [CLS] A [SEP] and B [SEP]
    places = np.flatnonzero(is_used_T & ~is_b_T)[1:-1], np.flatnonzero(is_used_T & is_b_T)[:-1]
    a, b = (_words(ids_T[here], labels_T[here], pieces) for here in places)
    return ReadSample(
        segments=(a, b),
        b_follows=int(sample["next_sentence_label"]) == 0,
        num_tokens=int(is_used_T.sum()),
        num_padding=int((~is_used_T).sum()),
        num_labelled=int((labels_T != NOT_LABELLED).sum()),
    )


def show_samples(data: PretrainingData, pieces: Pieces, console: Console, *, epoch: int, num_samples: int) -> None:
    """Prints the first samples of an epoch, which are a fair draw from the split.

    Args:
        data: the split.
        pieces: of its vocabulary.
        console: where to.
        epoch: from 0.
        num_samples: at most so many.
    """
    for index in range(min(num_samples, data.num_samples_per_epoch)):
        sample = read_sample(data.sample(epoch, index), pieces)
        console.print(Text(f"sample {index + 1:,} of {data.num_samples_per_epoch:,} in epoch {epoch}", style="bold"))
        counts = f"{sample.num_tokens} tokens, {sample.num_padding} of padding, {sample.num_labelled} to be predicted"
        console.print(Text(counts, style="dim"))
        relation = "B follows A" if sample.b_follows else "B is from another document"
        for name, words, after in (("A", sample.segments[0], ""), ("B", sample.segments[1], f"  ({relation})")):
            console.print(Text.assemble("\n", (name, "bold"), (after, "dim")))
            _print_paragraph(paragraph(words), console)
        console.print()
    _print_paragraph(_legend(), console)


def paragraph(words: list[Word]) -> Text:
    """Words in a row, those with marks in colour."""
    text = Text()
    for space, word in zip(spaces_before([word.text for word in words]), words, strict=True):
        text.append(" " * space)
        text.append(str(word), _STYLES[word.mark])
    return text


def _words(ids_T: NDArray[np.int64], labels_T: NDArray[np.int64], pieces: Pieces) -> list[Word]:
    original_T = np.where(labels_T == NOT_LABELLED, ids_T, labels_T)
    words, begin = [], 0
    for original in pieces.words(original_T):
        here = slice(begin, begin + len(original))
        begin += len(original)
        is_labelled = bool((labels_T[here] != NOT_LABELLED).any())
        words.append(_word(original, ids_T[here], is_labelled=is_labelled, pieces=pieces))
    return words


def _word(original: NDArray[np.integer], seen: NDArray[np.integer], *, is_labelled: bool, pieces: Pieces) -> Word:
    text = pieces.word(original.tolist())
    if not is_labelled:
        return Word(text)
    if (seen == pieces.vocabulary.special_ids["mask"]).all():
        return Word(text, Mark.MASKED)
    if (seen == original).all():
        return Word(text, Mark.KEPT)
    return Word(text, Mark.REPLACED, _BETWEEN_PIECES.join(pieces.texts[number] for number in seen.tolist()))


def _print_paragraph(text: Text, console: Console) -> None:
    """Prints it indented and wrapped at the console's width, no line with a space at its end."""
    for line in _wrapped(text, console):
        console.print(Text.assemble(" " * _INDENT, line), soft_wrap=True)


def _wrapped(text: Text, console: Console) -> Iterator[Text]:
    for line in text.wrap(console, max(console.width - _INDENT, 1)):
        line.rstrip()
        yield line


def _legend() -> Text:
    shown = (
        (Word("word", Mark.MASKED), "hidden by [MASK]"),
        (Word("word", Mark.REPLACED, "other"), "replaced, or hidden in part: what the model gets"),
        (Word("word", Mark.KEPT), "left as it is, and predicted all the same"),
    )
    parts = [part for word, what in shown for part in ((str(word), _STYLES[word.mark]), f" {what}; ")]
    text = Text.assemble(*parts)
    text.right_crop(len("; "))
    return text
