"""Text that the fonts of this machine can draw, in any script: what none has becomes a box or its code point."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

BOX = "▯"

_FIRST = "DejaVu Sans"
"""Comes with matplotlib."""
_MAY_HELP = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Micro Hei",
    "Arial Unicode MS",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans Devanagari",
    "Noto Sans Bengali",
    "Noto Sans Tamil",
    "Noto Sans Thai",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
)


@cache
def families() -> list[str]:
    """Fonts to look for a glyph in, in order; all of them are installed."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [_FIRST, *(name for name in _MAY_HELP if name in installed)]


def drawable(text: str, *, max_length: int, by_code_point: bool = False) -> str:
    """The text with what no font has replaced; a text that is too long loses its middle.

    Args:
        text: any.
        max_length: of the result, at least 3.
        by_code_point: "U+6CB3" for an unknown character, which tells which it is, not a box.
    """
    shown = "".join(
        character if ord(character) in _covered() else f"U+{ord(character):04X}" if by_code_point else BOX
        for character in text
    )
    if len(shown) <= max_length:
        return shown
    # The end of a path says more than its beginning.
    tail = (max_length - 1) * 2 // 3
    return f"{shown[: max_length - 1 - tail]}…{shown[-tail:]}"


@cache
def _covered() -> frozenset[int]:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    def code_points(family: str) -> Iterable[int]:
        font = FT2Font(font_manager.findfont(font_manager.FontProperties(family=family), fallback_to_default=False))
        return font.get_charmap()

    return frozenset(point for family in families() for point in code_points(family))
