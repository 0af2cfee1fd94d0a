"""`datasets:` — what Hugging Face's `datasets` reads: a data set of the hub or a local folder, row by row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from data_prep.sources.base import (
    CHUNK_BYTES,
    EMPTY,
    MAX_DOCUMENT_BYTES,
    NO_TEXT,
    UNREADABLE,
    Chunk,
    Document,
    Item,
    Problem,
    Skipped,
    find_unusable,
    too_long,
)
from data_prep.sources.text import paragraphs_of
from dsparse.errors import UserError

_PLACE = re.compile(r"(?P<name>[^:@]+)(?::(?P<config>[^:@]+))?(?:@(?P<split>[^:@]+))?")
_ROW_BYTES = 256  # what a row costs beside its text


@dataclass(frozen=True)
class HubDataset:
    """A split of a data set, streamed; only its text column is read where the format lets us."""

    label: str
    field: str
    folder: Path | None
    """Where it is if it is a local one."""
    rows: Any = dataclass_field(repr=False, compare=False)
    chunk_bytes: int = CHUNK_BYTES
    is_repetitive: bool = False

    @classmethod
    def named(cls, label: str, place: str, *, field: str) -> HubDataset:
        """The source of NAME[:CONFIG][@SPLIT]; the split is "train" if none is named.

        Raises:
            UserError: the name is malformed, or `datasets` cannot load it or finds no such column.
        """
        match = _PLACE.fullmatch(place)
        if match is None:
            raise UserError(f"Expected --source datasets:NAME[:CONFIG][@SPLIT]. Got {label!r}; name a data set.")
        rows = _load(label, match["name"], match["config"], match["split"] or "train")
        columns = rows.column_names
        if columns is not None and field not in columns:
            raise UserError(
                f"Expected a text {field!r} in the rows of --source {label}. Got {', '.join(columns)}; "
                "name the column of the text."
            )
        if columns is not None:
            rows = rows.select_columns([field])
        folder = Path(match["name"])
        return cls(label, field, folder if folder.is_dir() else None, rows)

    def files(self) -> list[Path]:
        """Those of a local folder."""
        if self.folder is None:
            return []
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        # `datasets` leaves hidden ones out, too.
        return sorted(p for p in paths if not any(part.startswith(".") for part in p.relative_to(self.folder).parts))

    def num_bytes(self) -> int:
        """0: how much of which file a row is, `datasets` does not say."""
        return 0

    def state(self) -> str:
        """Nothing."""
        return ""

    def chunks(self) -> Iterator[Chunk]:
        """Some rows each."""
        group: list[Item | str] = []
        size, first_row, number = 0, 1, 0
        try:
            for number, row in enumerate(self.rows, start=1):
                text = row.get(self.field)
                item = self._too_long_or_text(text, number)
                group.append(item)
                size += _ROW_BYTES + (len(item) if isinstance(item, str) else 0)
                if size >= self.chunk_bytes:
                    yield TextRows(self.label, first_row, tuple(group))
                    group, size, first_row = [], 0, number + 1
        # Whatever a reader of some format, or the network below it, raises.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            group.append(Problem(UNREADABLE, self._place(number + 1), f"run it again, or fetch it first ({reason})"))
        if group:
            yield TextRows(self.label, first_row, tuple(group))

    def _too_long_or_text(self, text: object, number: int) -> Item | str:
        place = self._place(number)
        if text is None:
            return Skipped(EMPTY, place)
        if not isinstance(text, str):
            return Problem(NO_TEXT, place, f"{self.field!r} is a text, not {type(text).__name__}")
        # A character is at most 4 bytes: only what may be too long is encoded to see.
        if len(text) > MAX_DOCUMENT_BYTES // 4:
            num_bytes = len(text.encode(errors="replace"))
            if num_bytes > MAX_DOCUMENT_BYTES:
                return too_long(place, num_bytes)
        return text

    def _place(self, number: int) -> str:
        return f"{self.label}, row {number}"


@dataclass(frozen=True)
class TextRows:
    """Texts that were streamed."""

    label: str
    first_row: int
    rows: tuple[Item | str, ...]
    num_bytes: int = 0

    def items(self) -> Iterator[Item]:
        """A document for each row."""
        for number, row in enumerate(self.rows, start=self.first_row):
            if not isinstance(row, str):
                yield row
                continue
            place = f"{self.label}, row {number}"
            text = paragraphs_of(row)
            yield find_unusable(text, place) or (Document(place, text) if text else Skipped(EMPTY, place))


def _load(label: str, name: str, config: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"Expected the package datasets for --source {label}. Got {error}; install it with `pip install datasets`."
        ) from None
    try:
        return datasets.load_dataset(name, config, split=split, streaming=True)
    # The hub, the network, the formats: each has errors of its own, and none is ours.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"Expected a data set that `datasets` loads in --source {label}. Got {type(error).__name__}: {reason}; "
            "check the name, the configuration, the split and the network."
        ) from None
