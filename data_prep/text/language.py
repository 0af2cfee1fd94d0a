"""Tells texts in another language by py3langid, which carries its model: the first characters of a text are enough."""

from __future__ import annotations

import importlib
from typing import Any

from dsparse.errors import UserError

_NUM_CHARS = 2000
# Below this the text is too short or too mixed to be held against it.
_MIN_CONFIDENCE = 0.5


class LanguageId:
    """Tells whether texts are in one language. It takes about 100 MiB of memory and 1 ms for a text."""

    def __init__(self, language: str) -> None:
        """Loads the model.

        Args:
            language: code of two or three letters after ISO 639, for example "en".

        Raises:
            UserError: py3langid is not installed, or does not know the language.
        """
        try:
            langid: Any = importlib.import_module("py3langid.langid")
        except ImportError:
            raise UserError(
                f"Expected py3langid for keeping texts in {language!r} alone. Got no such package; "
                "run `pip install py3langid` or leave the language out."
            ) from None
        self._identifier = langid.LanguageIdentifier.from_model_file(
            langid.MODEL_FILE, norm_probs=True, min_confidence=_MIN_CONFIDENCE
        )
        known = sorted(self._identifier.labels)
        if language not in known:
            raise UserError(f"Expected one of the languages {', '.join(known)}. Got {language!r}; choose one of them.")
        self._language = language

    def is_other(self, text: str) -> bool:
        """Whether the text is, more likely than not, in one other language."""
        label, _ = self._identifier.classify(text[:_NUM_CHARS])
        return label not in (self._language, "und")
