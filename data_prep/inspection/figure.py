"""A store on one page: key figures, sources, lengths, what was left out, and the most frequent tokens."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.inspection.fonts import drawable, families
from data_prep.inspection.numbers import LONGEST, Lengths, StoreNumbers
from data_prep.inspection.summary import dropped_by_reason, in_bytes, recipe_line
from data_prep.inspection.words import Pieces
from dsparse.data.manifest import Manifest
from dsparse.errors import UserError

SUFFIXES = (".png", ".pdf")
SIZE_PX = (1240, 1750)
"""About A4."""
_DPI = 150
_MOST_TOKENS = 30
_MOST_SOURCES, _MOST_REASONS = 8, 12
_LABEL_LENGTH = 34
_IN_WORDS = {"train": "for training", "heldout": "held out"}
_HEADROOM = 1.25
"""Of the histograms, for their legend."""
# Half doublings; whole numbers, for they are lengths.
_EDGES = np.unique(np.rint(2 ** (np.arange(2 * (LONGEST.bit_length() - 1) + 1) / 2)).astype(np.int64))

# Okabe and Ito's palette, as in the report of a run.
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8A8A"
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.size": 8,
    "grid.alpha": 0.3,
    # A token may be a dollar sign.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class _Bar:
    label: str
    value: float
    colour: str = _BLUE


def require_drawable(path: Path) -> None:
    """Raises UserError unless a report can be written to this path; it is cheap to ask before all is counted."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"Expected --report to end in {' or '.join(SUFFIXES)}. Got {path}; give it such a name.")
    if not path.parent.is_dir():
        raise UserError(f"Expected a folder for the report at {path.parent}. Got none; make it.")
    if path.is_dir():
        raise UserError(f"Expected --report to be a file. Got the folder {path}; give a name in it.")


def draw_report(manifest: Manifest, numbers: StoreNumbers, pieces: Pieces, path: Path, *, title: str) -> None:
    """Draws the page; the file is there whole or not at all.

    Args:
        manifest: of the store.
        numbers: what was counted in it.
        pieces: of its vocabulary.
        path: where to; its suffix is one of SUFFIXES.
        title: name of the store.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({**_STYLE, "font.family": families()}):
        figure = plt.figure(figsize=(SIZE_PX[0] / _DPI, SIZE_PX[1] / _DPI), dpi=_DPI, layout="constrained")
        try:
            _draw(figure, manifest, numbers, pieces, title)
            aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
            try:
                figure.savefig(aside, format=path.suffix[1:].lower())
                aside.replace(path)
            finally:
                aside.unlink(missing_ok=True)
        finally:
            plt.close(figure)


def _draw(figure: Any, manifest: Manifest, numbers: StoreNumbers, pieces: Pieces, title: str) -> None:
    figure.get_layout_engine().set(rect=(0.025, 0.015, 0.95, 0.97), w_pad=0.06, h_pad=0.06)
    num_sources = max(min(len(manifest.sources), _MOST_SOURCES + 1), 2)
    head, sources, lengths, bottom = figure.subfigures(4, 1, height_ratios=[2, 0.75 + 0.22 * num_sources, 2.2, 4.9])
    dropped = dropped_by_reason(manifest)
    _draw_head(head, manifest, numbers, title)
    _draw_sources(sources.subplots(1, 2, sharey=True), manifest)
    left, right = lengths.subplots(1, 2)
    _draw_lengths(left, numbers.documents, "Length of documents", numbers.tokens_per_document)
    _draw_lengths(right, numbers.sentences, "Length of sentences", numbers.tokens_per_sentence)
    if dropped:
        left, right = bottom.subplots(1, 2)
        _draw_dropped(left, dropped)
        _draw_tokens(right, numbers, pieces)
    else:
        _draw_tokens(bottom.subplots(), numbers, pieces)


def _draw_head(figure: Any, manifest: Manifest, numbers: StoreNumbers, title: str) -> None:
    figure.text(0.03, 0.92, drawable(title, max_length=50), fontsize=17, fontweight="bold", va="top")
    splits = ", ".join(
        f"{counts.num_tokens:,} tokens {_IN_WORDS.get(split, split)}" for split, counts in manifest.splits.items()
    )
    nothing = "" if dropped_by_reason(manifest) else " · nothing was left out"
    for y, line in ((0.73, splits + nothing), (0.63, recipe_line(manifest))):
        shown = drawable(line, max_length=120)
        figure.text(0.03, y, shown, fontsize=9, va="top", color="dimgrey")
    for place, (name, value) in enumerate(_key_figures(numbers).items()):
        x, y = 0.03 + 0.195 * (place % 5), 0.36 - 0.27 * (place // 5)
        figure.text(x, y, value, fontsize=13, fontweight="bold", color=_BLUE, va="bottom")
        figure.text(x, y - 0.01, name, fontsize=8, color="dimgrey", va="top")


def _key_figures(numbers: StoreNumbers) -> dict[str, str]:
    unknown = numbers.unknown_share
    return {
        "documents": in_short(numbers.documents.count),
        "sentences": in_short(numbers.sentences.count),
        "tokens": in_short(numbers.num_tokens),
        "of text": in_bytes(numbers.num_bytes),
        "bytes per token": f"{numbers.bytes_per_token:.2f}",
        "tokens per document": in_short(round(numbers.tokens_per_document)),
        "tokens per sentence": f"{numbers.tokens_per_sentence:.1f}",
        "word pieces": f"{numbers.vocabulary.size:,}",
        "of the word pieces used": f"{numbers.used_share:.1%}",
        "of the tokens are [UNK]": "< 0.01%" if 0 < unknown < 0.0001 else f"{unknown:.2%}",
    }


def _draw_sources(axes: Sequence[Any], manifest: Manifest) -> None:
    sources = sorted(manifest.sources, key=lambda source: -source.num_tokens)
    for one, name, colour in zip(axes, ("num_documents", "num_tokens"), (_GREEN, _BLUE), strict=True):
        bars = [_Bar(_with_weight(source.label, source.weight), getattr(source, name), colour) for source in sources]
        rest = bars[_MOST_SOURCES:]
        if len(rest) > 1:
            bars = [*bars[:_MOST_SOURCES], _Bar(f"{len(rest)} more", sum(bar.value for bar in rest), _GREY)]
        _bars(one, bars, f"{name.removeprefix('num_').capitalize()} by source", none="the store names no sources")
    axes[1].tick_params(labelleft=False)


def _with_weight(label: str, weight: float) -> str:
    return drawable(label, max_length=_LABEL_LENGTH) + (f" ×{weight:g}" if weight != 1 else "")


def _draw_lengths(axes: Any, lengths: Lengths, title: str, mean: float) -> None:
    axes.set_title(title)
    if not lengths.count:
        _say(axes, "nothing in the store")
        return
    # Lengths of 0 are in no store that verifies.
    sums = np.add.reduceat(lengths.counts_L, _EDGES)
    shares = sums / lengths.count
    used = np.flatnonzero(sums)
    shown = slice(used[0], used[-1] + 1)
    edges = np.append(_EDGES, 2 * LONGEST)
    axes.bar(
        edges[:-1][shown], shares[shown], np.diff(edges)[shown], align="edge", color=_BLUE, edgecolor="white", lw=0.5
    )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value < 2**17 else in_short(round(value)))
    axes.minorticks_off()
    axes.locator_params(axis="y", nbins=5)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    for value, colour, line, name in ((lengths.median, _RED, "-", "median"), (mean, _ORANGE, "--", "mean")):
        axes.axvline(value, color=colour, ls=line, lw=1.5, ymax=1 / _HEADROOM, label=f"{name} {value:,.0f}")
    axes.plot([], [], " ", label=f"longest {lengths.longest:,}")
    axes.set_ylim(top=_HEADROOM * shares.max())
    axes.legend(frameon=False, ncols=3, loc="upper center", columnspacing=1, handlelength=1.2)
    axes.set_xlabel("tokens")


def _draw_dropped(axes: Any, dropped: Mapping[str, int]) -> None:
    bars = [
        _Bar(drawable(reason, max_length=_LABEL_LENGTH), count, _ORANGE if "duplicate" in reason else _BLUE)
        for reason, count in dropped.items()
    ]
    if len(bars) > _MOST_REASONS + 1:
        rest = bars[_MOST_REASONS:]
        bars = [*bars[:_MOST_REASONS], _Bar(f"{len(rest)} more reasons", sum(bar.value for bar in rest), _GREY)]
    _bars(axes, bars, "Left out, by reason", none="nothing was left out", is_log=True, min_rows=8)
    _legend(axes, {"duplicates": _ORANGE, "everything else": _BLUE})


def _draw_tokens(axes: Any, numbers: StoreNumbers, pieces: Pieces) -> None:
    bars = []
    for number in numbers.most_frequent(_MOST_TOKENS):
        text = pieces.texts[number]
        is_word = any(character.isalnum() for character in pieces.bare(number))
        colour = _ORANGE if numbers.vocabulary.continues_word_V[number] else _BLUE if is_word else _GREY
        bars.append(
            _Bar(
                drawable(text, max_length=20, by_code_point=True),
                numbers.token_counts_V[number] / numbers.num_tokens,
                colour,
            )
        )
    _bars(axes, bars, "Most frequent tokens", none="nothing in the store", is_share=True)
    axes.tick_params(axis="y", labelsize=7)
    _legend(axes, {"words and beginnings": _BLUE, "going on a word": _ORANGE, "signs": _GREY})


def _bars(
    axes: Any,
    bars: Sequence[_Bar],
    title: str,
    *,
    none: str,
    is_log: bool = False,
    is_share: bool = False,
    min_rows: int = 2,
) -> None:
    """Horizontal bars from the top down, each with its value at its end."""
    axes.set_title(title)
    if not bars:
        _say(axes, none)
        return
    values = [bar.value for bar in bars]
    axes.barh(range(len(bars)), values, color=[bar.colour for bar in bars], height=0.72)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.set_ylim(max(len(bars), min_rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    # Room for the values.
    if is_log:
        axes.set_xscale("log")
        axes.set_xlim(0.7, max(values) ** 1.3 * 2)
    else:
        axes.set_xlim(0, max(*values, 1e-9) * 1.22)
        axes.locator_params(axis="x", nbins=4, integer=not is_share)
    say = (lambda value: f"{value:.1%}") if is_share else (lambda value: in_short(round(value)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.1%}" if is_share else in_short(round(value)))
    for place, value in enumerate(values):
        axes.annotate(say(value), (max(value, 0.7 if is_log else 0), place), (3, 0), textcoords="offset points",
                      va="center", fontsize=7)  # fmt: skip


def _legend(axes: Any, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    axes.legend(
        handles=handles, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=len(handles),
        columnspacing=1, handlelength=1,
    )  # fmt: skip


def _say(axes: Any, what: str) -> None:
    """An empty panel that says why it is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, what, ha="center", va="center", color="dimgrey", transform=axes.transAxes)


def in_short(number: int) -> str:
    """A count in at most four digits: 950, 12.3k, 4.57M."""
    if number < 10_000:
        return f"{number:,}"
    for unit, size in (("k", 10**3), ("M", 10**6), ("B", 10**9)):
        # What would be rounded to 1000 of a unit is 1 of the next.
        if number < 999.5 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number / 10**12:,.3g}T"
