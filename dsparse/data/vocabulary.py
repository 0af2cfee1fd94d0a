"""What batches need to know of a tokenizer: its size, its special ids, and which pieces go on a word.

Read straight from `tokenizer.json`, so training needs no tokenizer library.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsparse.errors import UserError

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
"""BERT's special tokens by the name of what they do; a new vocabulary gives them its first ids, in this order."""


_OTHER_NAMES = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
"""RoBERTa's names, which byte-level tokenizers may have instead."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """A vocabulary of V ids: WordPiece, or byte-level BPE whose words begin with a space."""

    size: int
    """V, the largest id and one."""
    special_ids: dict[str, int]
    """Ids of "pad", "unk", "cls", "sep" and "mask"."""
    continues_word_V: NDArray[np.bool_]
    """Whether an id is a piece that goes on a word: "##ing", or "ing" where a word begins as "Ġword"."""
    ordinary_ids: NDArray[np.int64]
    """All ids but the special ones, ascending."""
    sha256: str
    """Of the file's bytes: two stores with the same hash were made by the same tokenizer."""

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Reads a `tokenizer.json` of Hugging Face's tokenizers.

        Raises:
            UserError: the file is missing, is neither a WordPiece nor a byte-level BPE tokenizer, or lacks a special
                token.
        """
        if not path.is_file():
            raise UserError(f"Expected a tokenizer file {path}. Got none; give a tokenizer.json.")
        raw = path.read_bytes()
        try:
            content = json.loads(raw)
            model, added = content["model"], content.get("added_tokens", [])
            ids: dict[str, int] = {str(piece): int(number) for piece, number in model["vocab"].items()}
            ids |= {str(token["content"]): int(token["id"]) for token in added}
            prefix = str(model.get("continuing_subword_prefix") or "")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"Expected {path} to be the tokenizer.json of a WordPiece or byte-level BPE tokenizer. Got something "
                f"else ({error!r})."
            ) from None
        is_bytes = is_byte_level(content)
        special_ids = _special_ids(ids)
        missing = [SPECIAL_TOKENS[name] for name in SPECIAL_TOKENS if name not in special_ids]
        if missing or not (prefix or is_bytes):
            lack = f"no {', '.join(missing)}" if missing else "no prefix for pieces that go on a word"
            raise UserError(f"Expected {path} to be a WordPiece tokenizer with BERT's special tokens. Got {lack}.")
        size = max(ids.values()) + 1
        continues_V, is_special_V = np.zeros(size, bool), np.zeros(size, bool)
        going_on = (piece for piece in ids if (_goes_on(piece) if is_bytes else piece.startswith(prefix)))
        continues_V[[ids[piece] for piece in going_on]] = True
        is_special_V[[*special_ids.values()]] = True
        is_special_V[[int(token["id"]) for token in added if token.get("special")]] = True
        return cls(
            size=size,
            special_ids=special_ids,
            continues_word_V=continues_V & ~is_special_V,
            ordinary_ids=np.flatnonzero(~is_special_V),
            sha256=hashlib.sha256(raw).hexdigest(),
        )


def is_byte_level(content: dict[str, Any]) -> bool:
    """Whether the content of a tokenizer.json is byte-level BPE."""
    splitter = content.get("pre_tokenizer") or {}
    splitters = splitter.get("pretokenizers", [splitter])
    return content["model"].get("type") == "BPE" and any(one.get("type") == "ByteLevel" for one in splitters)


def bytes_of(piece: str) -> bytes:
    """The bytes that a piece of byte-level BPE stands for; of a character that is no byte, its own.

    Source: `bytes_to_unicode` of GPT-2, https://github.com/openai/gpt-2, which gives each byte a character that shows.
    """
    return b"".join(bytes([_BYTE_OF[one]]) if one in _BYTE_OF else one.encode() for one in piece)


def _byte_of_character() -> dict[str, int]:
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTE_OF = _byte_of_character()


def _goes_on(piece: str) -> bool:
    """Whether a byte-level piece goes on a word: it begins with neither a space nor ASCII punctuation."""
    byte = _BYTE_OF.get(piece[:1], 0)
    return byte >= 128 or chr(byte).isalnum()


def _special_ids(ids: dict[str, int]) -> dict[str, int]:
    """Ids of the special tokens that there are, by either name."""
    names = {
        name: next((one for one in (token, _OTHER_NAMES[name]) if one in ids), None)
        for name, token in SPECIAL_TOKENS.items()
    }
    return {name: ids[token] for name, token in names.items() if token is not None}
