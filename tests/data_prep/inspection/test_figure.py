"""The page: of its size and not blank, whatever the store; warnings, such as of missing glyphs, are errors here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from data_prep.inspection import figure, fonts
from data_prep.inspection.figure import SIZE_PX, draw_report, in_short
from data_prep.inspection.fonts import drawable
from data_prep.inspection.numbers import count_store
from data_prep.inspection.words import Pieces
from dsparse.data.manifest import TOKENIZER, Manifest
from tests.data.small import write_store
from tests.data_prep.readable import make_store

# More or less frequent words of several scripts; the last is in few fonts.
SCRIPTS = [
    "数据 结构 的 基础",
    "हिन्दी भाषा का पाठ",
    "نص باللغة العربية",
    "текст по русски $ 5 and $ 6",
    "𓂀 𓃭 𓆣 𓂀",
]


def draw(store: Path, path: Path, **changes: Any) -> None:
    manifest, pieces = Manifest.read(store), Pieces.read(store / TOKENIZER)
    numbers = count_store(manifest, store, pieces.vocabulary, lambda _: None)
    draw_report(replace(manifest, **changes), numbers, pieces, path, title=store.name)


def shares_of_ink(path: Path) -> list[float]:
    """Of each quarter of the page from the top down, the share that is not white."""
    page = image.imread(path)
    assert page.shape[:2] == SIZE_PX[::-1]
    return [float((quarter[..., :3].min(axis=-1) < 0.9).mean()) for quarter in np.array_split(page, 4)]


@pytest.mark.parametrize("num_sources", [1, 12])
def test_the_page_is_drawn(tmp_path: Path, num_sources: int) -> None:
    store = make_store(tmp_path / "store", num_sources=num_sources)
    draw(store, tmp_path / "page.png")
    assert min(shares_of_ink(tmp_path / "page.png")) > 0.01
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.png", "store"]


def test_other_scripts_are_drawn(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store $ $ 数据", sentences=SCRIPTS)
    draw(store, tmp_path / "page.png")
    assert min(shares_of_ink(tmp_path / "page.png")) > 0.01


def test_a_store_without_sources_and_without_drops(tmp_path: Path) -> None:
    draw(write_store(tmp_path / "a", {"train": [[[5, 6], [7]]], "heldout": [[[5]]]}), tmp_path / "page.png")
    assert min(shares_of_ink(tmp_path / "page.png")) > 0.005


def test_a_store_without_a_token(tmp_path: Path) -> None:
    draw(write_store(tmp_path / "a", {"train": [], "heldout": []}), tmp_path / "page.png")
    assert shares_of_ink(tmp_path / "page.png")[0] > 0.005


def test_pdf(tmp_path: Path) -> None:
    draw(make_store(tmp_path / "store"), tmp_path / "page.PDF")
    assert (tmp_path / "page.PDF").read_bytes().startswith(b"%PDF")


@pytest.fixture
def spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The drawn figure with all its texts, for a store of many long labels."""
    from matplotlib.figure import Figure

    kept: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: Any, **options: Any) -> None:
        kept.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    dropped = {f"a reason that takes many words to say, number {n}": 10**9 - n for n in range(20)}
    draw(make_store(tmp_path / "store", num_sources=8, dropped=dropped), tmp_path / "page.png")
    yield kept[0]


def test_no_text_lies_over_another_or_off_the_page(spread: Any) -> None:
    boxes = [(text.get_text(), text.get_window_extent()) for one in spread.subfigs for text in one.texts]
    for axes in (axes for one in spread.subfigs for axes in one.axes):
        labels = [*axes.get_xticklabels(), *axes.texts, axes.title, axes._left_title, axes.xaxis.label]
        if axes.yaxis.get_tick_params()["labelleft"]:
            labels += axes.get_yticklabels()
        if axes.get_legend():
            labels += axes.get_legend().get_texts()
        seen = [one for one in labels if one.get_visible() and one.get_text().strip()]
        boxes += [(one.get_text(), one.get_window_extent()) for one in seen if _is_in_view(one, axes)]
    assert len(boxes) > 80
    width, height = spread.bbox.size
    for place, (name, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, name
        for other, other_box in boxes[place + 1 :]:
            # Boxes of letters are a little higher than their ink.
            over = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
            across = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
            assert over < 8 or across < 2, f"{name!r} and {other!r}"


def _is_in_view(text: Any, axes: Any) -> bool:
    """Ticks outside the limits have labels that are not drawn."""
    box, (x, y) = axes.get_window_extent(), text.get_transform().transform(text.get_position())
    if text in axes.get_xticklabels():
        return bool(box.x0 - 1 <= x <= box.x1 + 1)
    return text not in axes.get_yticklabels() or bool(box.y0 - 1 <= y <= box.y1 + 1)


def test_the_page_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    def fail(self: Figure, path: Path, **_: Any) -> None:
        path.write_bytes(b"half a")
        raise OSError("No space left on device")

    store = make_store(tmp_path / "store")
    (tmp_path / "page.png").write_bytes(b"the old one")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        draw(store, tmp_path / "page.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.png", "store"]
    assert (tmp_path / "page.png").read_bytes() == b"the old one"


def test_what_no_font_has_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_covered", lambda: frozenset(map(ord, "##abcdefghij/")))
    assert drawable("a河/b", max_length=9) == "a▯/b"
    assert drawable("##河", max_length=9, by_code_point=True) == "##U+6CB3"
    assert drawable("abcdefghij", max_length=10) == "abcdefghij"
    assert drawable("abcdefghij", max_length=7) == "ab…ghij"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"),
        (9999, "9,999"),
        (10_000, "10k"),
        (12_345, "12.3k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (4_567_890, "4.57M"),
        (999_500_000, "1B"),
        (3 * 10**12, "3T"),
    ],
)
def test_counts_in_short(number: int, said: str) -> None:
    assert in_short(number) == said


def test_bins_are_half_doublings_without_a_gap() -> None:
    edges = figure._EDGES
    assert edges[0] == 1 and edges[-1] == 2**20 and (np.diff(edges) > 0).all()
    assert {2**n for n in range(21)} <= {*edges.tolist()} and len(edges) == 40
