"""The templates of the English Wikipedia that stand for words of a sentence; without them it has a hole.

All others are boxes, notes, references and notices to editors.
"""

from __future__ import annotations

from collections.abc import Callable

import wikitextparser

_SHOWS_FIRST = frozenset(
    {"abbr", "abbrlink", "angbr", "big", "bigger", "block quote", "blockquote", "bquote", "center", "cquote"}
    | {"dfn", "em", "flag", "flagcountry", "ill", "interlanguage link", "keypress", "large", "math", "mono", "mvar"}
    | {"nobold", "nobr", "noitalic", "nowrap", "nwr", "overline", "pull quote", "pullquote", "quotation", "quote"}
    | {"quote box", "rquote", "small", "smallcaps", "sm", "smaller", "strong", "sub", "sup", "tq", "tt", "underline"}
    | {"unicode", "usurped", "val", "var", "w", "xt", "yesitalic"}
)
_SHOWS_SECOND = frozenset(
    {"lang", "langx", "transl", "transliteration", "color", "colour", "font color", "resize", "hover title"}
)
_SIGNS = {
    "ndash": "–", "en dash": "–", "endash": "–", "spaced ndash": " – ", "snd": " – ", "spnd": " – ", "mdash": "—",
    "em dash": "—", "spaced mdash": " — ", "nbsp": " ", "space": " ", "spaces": " ", "thinsp": " ", "'": "'",
    "-'": "'", "'-": "'", "'s": "'s", "=": "=", "!": "|", "pound": "£", "euro": "€", "plusmn": "±", "times": "×",
    "minus": "−", "shy": "", "zwsp": "", "bull": "•", "middot": "·", "dot": "·", "·": "·", "\\": "/", "lbr": "[",
    "prime": "′", "pi": "π", "degree": "°", "deg": "°", "sdot": "·",
}  # fmt: skip
_MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]  # fmt: skip


def stands_for_words(template: wikitextparser.Template) -> bool:
    """Whether a template puts something into the sentence, whatever it is given."""
    name = _name_of(template)
    return name in _STANDS_FOR_WORDS or name.startswith("lang-")


def text_of_template(template: wikitextparser.Template, text_of: Callable[[wikitextparser.Argument], str]) -> str:
    """What a template that stands for words puts into the sentence, given the text of its arguments."""
    name = _name_of(template)
    if name in _SIGNS:
        return _SIGNS[name]
    arguments = template.arguments
    given = [argument for argument in arguments if argument.positional]
    if not given:
        given = [argument for argument in arguments if argument.name.strip() in ("1", "text")]
    return _shown(name, [text_of(argument).strip() for argument in given] or [""]) if arguments else ""


def _name_of(template: wikitextparser.Template) -> str:
    return template.normal_name().lower()


def _shown(name: str, given: list[str]) -> str:
    if name in _SHOWS_FIRST:
        return given[0]
    if name in _SHOWS_SECOND:
        return given[min(1, len(given) - 1)]
    return _COMPOSED[name](given) if name in _COMPOSED else given[-1]


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


def _fraction(given: list[str]) -> str:
    parts = "/".join(given[-2:])
    return parts if len(given) < 3 else f"{given[0]} {parts}"


def _as_of(given: list[str]) -> str:
    return f"As of {_date(given)}" if given[0] else ""


def _date(given: list[str]) -> str:
    numbers = [int(value) for value in given[:3] if value.isdecimal()]
    if len(numbers) > 1 and 1 <= numbers[1] <= 12:
        day = f"{numbers[2]} " if len(numbers) > 2 else ""
        return f"{day}{_MONTHS[numbers[1] - 1]} {numbers[0]}"
    return given[0]


_COMPOSED: dict[str, Callable[[list[str]], str]] = {
    "as of": _as_of,
    **dict.fromkeys(("circa", "c.", "ca", "c"), lambda given: f"c. {'–'.join(given)}"),
    **dict.fromkeys(("reign", "r."), lambda given: f"r. {'–'.join(given)}"),
    **dict.fromkeys(("convert", "cvt"), _measure),
    **dict.fromkeys(("chem", "chem2"), "".join),
    **dict.fromkeys(("frac", "sfrac", "fraction"), _fraction),
    **dict.fromkeys(("death date", "birth date", "start date", "end date", "date"), _date),
}
_STANDS_FOR_WORDS = _SHOWS_FIRST | _SHOWS_SECOND | {"script"} | _SIGNS.keys() | _COMPOSED.keys()
