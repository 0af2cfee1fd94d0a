"""Which pages are too broken to parse.

The parser looks from each bracket or tag that opens for where it closes, so its time grows with the square of how many
never do, and of how deep they are nested. Articles have a few; hundreds are an accident or an attack. They are counted
here, in time that grows with the length of the page.
"""

from __future__ import annotations

import re
from collections import Counter

# Family trees are the deepest there is: {{clade}} in {{clade}}.
_MAX_TEMPLATES_DEEP = 40
# A link in the caption of a picture in the caption of another is 3.
_MAX_LINKS_DEEP = 10
_MAX_UNCLOSED = 500
_MAX_TABLES = 500

_TAG = re.compile(r"<(/?)([a-z]\w*)([^<>]*)(>?)", re.IGNORECASE)


class NotWikitextError(ValueError):
    """A page that is no wikitext a parser could read; the message says why."""


def check_bounds(wikitext: str) -> None:
    """Looks at what opens and never closes, or is nested.

    Raises:
        NotWikitextError: there is more of it than in any article.
    """
    unclosed = max(_max_unclosed_tags(wikitext), *(part.count("[") for part in wikitext.split("]")), 0)
    if unclosed > _MAX_UNCLOSED:
        raise NotWikitextError(f"{unclosed:,} brackets, or tags of one name, are open at once")
    num_tables = wikitext.count("{|")
    if num_tables > _MAX_TABLES:
        raise NotWikitextError(f"it has {num_tables:,} tables")
    for opening, closing, limit in (("{{", "}}", _MAX_TEMPLATES_DEEP), ("[[", "]]", _MAX_LINKS_DEEP)):
        depth = _max_depth(wikitext, opening, closing)
        if depth > limit:
            raise NotWikitextError(f"{opening} … {closing} is {depth:,} deep")


def _max_unclosed_tags(wikitext: str) -> int:
    """The most tags of one name that are open at one place."""
    unclosed: Counter[str] = Counter()
    most = 0
    for match in _TAG.finditer(wikitext):
        is_end, name, rest, close = match.groups()
        name = name.lower()
        if is_end:
            unclosed[name] -= unclosed[name] > 0
        elif not (close and rest.endswith("/")):
            unclosed[name] += 1
            most = max(most, unclosed[name])
    return most


def _max_depth(wikitext: str, opening: str, closing: str) -> int:
    """How deep brackets that close are nested; TeX has some that never do, which cost nothing."""
    deepest, depths = 0, [0]
    for bracket in re.findall(rf"{re.escape(opening)}|{re.escape(closing)}", wikitext):
        if bracket == opening:
            depths.append(0)
        elif len(depths) > 1:
            depth = depths.pop() + 1
            depths[-1] = max(depths[-1], depth)
            deepest = max(deepest, depth)
    return deepest
