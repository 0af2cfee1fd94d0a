"""A store in a dozen lines: its splits, where its text comes from, what was left out, and what made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from data_prep.inspection.words import printable
from dsparse.data.manifest import SHARD_SUFFIXES, Manifest

_CODE_OF = "code of "


def dropped_by_reason(manifest: Manifest) -> dict[str, int]:
    """What was left out over all sources, the most frequent reason first."""
    counts: Counter[str] = Counter()
    for source in manifest.sources:
        counts.update(source.dropped)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {printable(reason): count for reason, count in ordered if count}


def show_summary(manifest: Manifest, store: Path, console: Console) -> None:
    """Prints what a manifest says of its store.

    Args:
        manifest: of the store.
        store: its folder.
        console: where to.
    """
    num_bytes = sum(record.num_bytes for record in manifest.files.values())
    _heading(console, f"{store}: {in_bytes(num_bytes)}, {manifest.vocab_size:,} word pieces")
    _table(console, ["documents", "sentences", "tokens", "shards", "on disk"], _split_rows(manifest))
    if manifest.sources:
        _heading(console, "sources")
        _table(console, ["documents", "sentences", "tokens", "weight", "left out"], _source_rows(manifest))
    dropped = dropped_by_reason(manifest)
    if dropped:
        _heading(console, "left out")
        _table(console, [], [([f"{count:,}"], reason) for reason, count in dropped.items()])
    if manifest.versions:
        _heading(console, "made by")
        for is_code in (False, True):
            _print_versions(manifest.versions, console, is_code=is_code)


def in_bytes(num_bytes: int) -> str:
    """A number of bytes as people say it."""
    value, unit = float(num_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{num_bytes} bytes" if unit == "bytes" else f"{value:.3g} {unit}"


def recipe_line(manifest: Manifest) -> str:
    """What of the recipe decides most, in one line; empty for a store that was made without one."""
    recipe = manifest.recipe
    told = {
        "near_duplicates": "near duplicates from {}",
        "language": "language {}",
        "max_documents": "at most {} documents",
        "heldout_fraction": "{:g} of the documents held out",
        "seed": "seed {}",
    }
    parts = [said.format(recipe[key]) for key, said in told.items() if recipe.get(key) is not None]
    if recipe.get("near_duplicates", 0) is None:
        parts.insert(0, "exact duplicates alone")
    if recipe:
        parts.append("tokenizer given" if recipe.get("tokenizer_sha256") else "tokenizer trained on it")
    return printable(" · ".join(parts))


def _split_rows(manifest: Manifest) -> list[tuple[list[str], str]]:
    rows = []
    for split, counts in manifest.splits.items():
        names = [f"{name}{suffix}" for name in manifest.shards[split] for suffix in SHARD_SUFFIXES]
        numbers = [counts.num_documents, counts.num_sentences, counts.num_tokens, len(manifest.shards[split])]
        size = in_bytes(sum(manifest.files[name].num_bytes for name in names))
        rows.append(([*(f"{number:,}" for number in numbers), size], split))
    return rows


def _source_rows(manifest: Manifest) -> list[tuple[list[str], str]]:
    rows = []
    for source in manifest.sources:
        numbers = [f"{n:,}" for n in (source.num_documents, source.num_sentences, source.num_tokens)]
        rows.append(([*numbers, f"{source.weight:g}", f"{sum(source.dropped.values()):,}"], printable(source.label)))
    return rows


def _print_versions(versions: dict[str, str], console: Console, *, is_code: bool) -> None:
    """Libraries, or the code of the stages, wrapped between two of them."""
    shown = [
        printable(f"{name.removeprefix(_CODE_OF)} {version}").replace(" ", "\u00a0")
        for name, version in versions.items()
        if name.startswith(_CODE_OF) == is_code
    ]
    if not shown:
        return
    text = Text(f"{'code: ' if is_code else ''}{', '.join(shown)}")
    for line in text.wrap(console, max(console.width - 2, 1)):
        line.rstrip()
        _line(console, f"  {line.plain}".replace("\u00a0", " "))


def _table(console: Console, header: Sequence[str], rows: Sequence[tuple[Sequence[str], str]]) -> None:
    """Columns of numbers, and a name at the end of each line, where its length does no harm."""
    lines = [([*header], ""), *rows] if header else rows
    widths = [max(map(len, column)) for column in zip(*(cells for cells, _ in lines), strict=True)]
    for number, (cells, name) in enumerate(lines):
        row = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        _line(console, f"  {row}  {name}".rstrip(), "dim" if header and number == 0 else "")


def _heading(console: Console, text: str) -> None:
    console.print()
    _line(console, text, "bold")


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True)
