"""Which source a --source names."""

from __future__ import annotations

from pathlib import Path

from data_prep.sources.base import Source
from data_prep.sources.gutenberg import Books
from data_prep.sources.hub import HubDataset
from data_prep.sources.installed import InstalledDocs
from data_prep.sources.jsonl import JsonLines
from data_prep.sources.text import TextFiles
from data_prep.sources.wikipedia import WikipediaDump
from dsparse.errors import UserError

KINDS = (
    "installed-docs",
    "text:PATH",
    "gutenberg:PATH",
    "jsonl:PATH",
    "parquet:PATH",
    "datasets:NAME[:CONFIG][@SPLIT]",
    "wikipedia-xml:FILE",
)
"""How sources are named; a PATH is a file or a folder."""


def parse_source(spec: str, *, field: str = "text") -> Source:
    """The source that a --source names.

    Args:
        spec: one of KINDS.
        field: name of the text in each JSON line, or of its column in Parquet and `datasets`.

    Raises:
        UserError: the kind is unknown, or there is nothing at the path.
    """
    kind, _, place = spec.partition(":")
    if spec == "installed-docs":
        return InstalledDocs.here(spec)
    if place and kind == "text":
        return TextFiles.at(spec, Path(place))
    if place and kind == "gutenberg":
        return Books.at(spec, Path(place))
    if place and kind == "jsonl":
        return JsonLines.at(spec, Path(place), field=field)
    if place and kind == "parquet":
        # pyarrow is large, and no other source needs it.
        from data_prep.sources.parquet import ParquetFiles

        return ParquetFiles.at(spec, Path(place), field=field)
    if place and kind == "datasets":
        return HubDataset.named(spec, place, field=field)
    if place and kind == "wikipedia-xml":
        return WikipediaDump.at(spec, Path(place))
    raise UserError(f"Expected --source {', '.join(KINDS[:-1])} or {KINDS[-1]}. Got {spec!r}; name one of these.")
