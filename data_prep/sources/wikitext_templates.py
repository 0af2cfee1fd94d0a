"""The templates of the English Wikipedia that stand for words of a sentence; without them it has a hole.

All others are boxes, notes, references and notices to editors.
"""

from __future__ import annotations

import re

# A bar inside a link is the link's.
_BAR = re.compile(r"\|(?![^\[\]]*\]\])")
_ARGUMENT_NAME = re.compile(r"\s*[\w -]{1,30}=")
_SHOWS_FIRST = frozenset(
    {"abbr", "abbrlink", "angbr", "as of", "big", "bigger", "block quote", "blockquote", "bquote", "center", "cquote"}
    | {"dfn", "em", "flag", "flagcountry", "ill", "interlanguage link", "keypress", "large", "math", "mono", "mvar"}
    | {"nobold", "nobr", "noitalic", "nowrap", "nwr", "overline", "pull quote", "pullquote", "quotation", "quote"}
    | {"quote box", "rquote", "small", "smallcaps", "sm", "smaller", "strong", "sub", "sup", "tq", "tt", "underline"}
    | {"unicode", "usurped", "val", "var", "w", "xt", "yesitalic"}
)
_SHOWS_SECOND = frozenset(
    {"lang", "transl", "transliteration", "color", "colour", "font color", "resize", "hover title"}
)
_SHOWS_LAST = frozenset({"langx", "script"})
_SIGNS = {
    "ndash": "–", "en dash": "–", "endash": "–", "spaced ndash": " – ", "snd": " – ", "spnd": " – ", "mdash": "—",
    "em dash": "—", "spaced mdash": " — ", "nbsp": " ", "space": " ", "spaces": " ", "thinsp": " ", "'": "'",
    "-'": "'", "'-": "'", "'s": "'s", "=": "=", "!": "|", "pound": "£", "euro": "€", "plusmn": "±", "times": "×",
    "minus": "−", "shy": "", "zwsp": "", "bull": "•", "middot": "·", "dot": "·", "·": "·", "\\": "/", "lbr": "[",
    "prime": "′", "pi": "π", "degree": "°", "deg": "°", "sdot": "·",
}  # fmt: skip
_DATES = frozenset({"circa", "c.", "ca", "c"})
_MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]  # fmt: skip


def text_of_template(inside: str) -> str:
    """What a template, between its braces, puts into the sentence; templates inside it are text already."""
    name, *arguments = _BAR.split(inside)
    name = " ".join(name.replace("_", " ").split()).lower()
    if name in _SIGNS:
        return _SIGNS[name]
    if not arguments:
        return ""
    given = [argument for argument in arguments if not _ARGUMENT_NAME.match(argument)]
    if not given:
        given = [
            value.strip() for key, _, value in (a.partition("=") for a in arguments) if key.strip() in ("1", "text")
        ]
    given = [argument.strip() for argument in given] or [""]
    return _shown(name, given)


def _shown(name: str, given: list[str]) -> str:
    if name in _SHOWS_FIRST:
        return given[0] if name != "as of" else _as_of(given)
    if name in _SHOWS_SECOND:
        return given[min(1, len(given) - 1)]
    if name in _SHOWS_LAST or name.startswith("lang-"):
        return given[-1] if name != "langx" else given[min(1, len(given) - 1)]
    if name in _DATES:
        return f"c. {'–'.join(given)}"
    if name in ("convert", "cvt"):
        return _measure(given)
    if name in ("chem", "chem2"):
        return "".join(given)
    if name in ("frac", "sfrac", "fraction"):
        return "/".join(given[-2:]) if len(given) < 3 else f"{given[0]} {'/'.join(given[-2:])}"
    if name in ("reign", "r."):
        return f"r. {'–'.join(given)}"
    if name in ("death date", "birth date", "start date", "end date", "date"):
        return _date(given)
    return ""


def _measure(given: list[str]) -> str:
    """Of {{convert}} the measure that the author gave, with the sign of its unit."""
    if len(given) >= 4 and given[1] in ("-", "–", "to", "and", "x", "by", "or", "to(-)"):
        word = {"-": "–", "–": "–", "to(-)": "–"}.get(given[1], f" {given[1]} ")
        return f"{given[0]}{word}{given[2]} {_unit(given[3])}"
    return f"{given[0]} {_unit(given[1])}" if len(given) > 1 else given[0]


def _unit(sign: str) -> str:
    return {"sqmi": "square miles", "sqkm": "km²", "km2": "km²", "m2": "m²", "m3": "m³", "C": "°C", "F": "°F",
            "in": "inches", "mph": "mph", "sqft": "square feet", "cuft": "cubic feet", "acre": "acres", "ha": "ha",
            "mi": "miles", "ft": "feet", "lb": "pounds", "yd": "yards"}.get(sign, sign)  # fmt: skip


def _as_of(given: list[str]) -> str:
    return f"As of {_date(given)}" if given[0] else ""


def _date(given: list[str]) -> str:
    numbers = [int(value) for value in given[:3] if value.isdecimal()]
    if len(numbers) > 1 and 1 <= numbers[1] <= 12:
        day = f"{numbers[2]} " if len(numbers) > 2 else ""
        return f"{day}{_MONTHS[numbers[1] - 1]} {numbers[0]}"
    return given[0]
