"""What batches need to know of a tokenizer: its size, its special ids, and which pieces go on a word.

Read straight from `tokenizer.json`, so training needs no tokenizer library.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsparse.errors import UserError

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
"""BERT's special tokens by the name of what they do; a new vocabulary gives them its first ids, in this order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """A WordPiece vocabulary of V ids."""

    size: int
    """V, the largest id and one."""
    special_ids: dict[str, int]
    """Ids of "pad", "unk", "cls", "sep" and "mask"."""
    continues_word_V: NDArray[np.bool_]
    """Whether an id is a piece that goes on a word ("##ing")."""
    ordinary_ids: NDArray[np.int64]
    """All ids but the special ones, ascending."""
    sha256: str
    """Of the file's bytes: two stores with the same hash were made by the same tokenizer."""

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Reads a `tokenizer.json` of Hugging Face's tokenizers.

        Raises:
            UserError: the file is missing, is no WordPiece tokenizer or lacks a special token.
        """
        if not path.is_file():
            raise UserError(f"Expected a tokenizer file {path}. Got none; give a tokenizer.json.")
        raw = path.read_bytes()
        try:
            content = json.loads(raw)
            model, added = content["model"], content.get("added_tokens", [])
            ids: dict[str, int] = {str(piece): int(number) for piece, number in model["vocab"].items()}
            ids |= {str(token["content"]): int(token["id"]) for token in added}
            prefix = str(model.get("continuing_subword_prefix", ""))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"Expected {path} to be the tokenizer.json of a WordPiece tokenizer. Got something else ({error!r})."
            ) from None
        missing = [token for token in SPECIAL_TOKENS.values() if token not in ids]
        if missing or not prefix:
            lack = f"no {', '.join(missing)}" if missing else "no prefix for pieces that go on a word"
            raise UserError(f"Expected {path} to be a WordPiece tokenizer with BERT's special tokens. Got {lack}.")
        size = max(ids.values()) + 1
        continues_V, is_special_V = np.zeros(size, bool), np.zeros(size, bool)
        continues_V[[number for piece, number in ids.items() if piece.startswith(prefix)]] = True
        is_special_V[[ids[token] for token in SPECIAL_TOKENS.values()]] = True
        is_special_V[[int(token["id"]) for token in added if token.get("special")]] = True
        return cls(
            size=size,
            special_ids={name: ids[token] for name, token in SPECIAL_TOKENS.items()},
            continues_word_V=continues_V,
            ordinary_ids=np.flatnonzero(~is_special_V),
            sha256=hashlib.sha256(raw).hexdigest(),
        )
