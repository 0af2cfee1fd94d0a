"""Prose out of wikitext.

wikitextparser finds brackets, tags, tables and formatting, in two steps: on the page, for what goes with all that is in
it, and on each section of what is left, for its plain text. Ours is only what no parser can know: which elements, links
and templates stand for words, which sections are no part of the article, and which lines are sentences.
mwparserfromhell, the other library, is measured beside it in benchmarks/wikitext.py.
"""

from __future__ import annotations

import html
import re
from bisect import bisect_left
from collections.abc import Iterator

import wikitextparser

from data_prep.sources.wikitext_bounds import NotWikitextError, check_bounds
from data_prep.sources.wikitext_templates import stands_for_words, text_of_template

# Elements that go with what is in them.
_DROPPED = frozenset(
    {"categorytree", "ce", "chem", "gallery", "graph", "hiero", "imagemap", "includeonly", "inputbox", "mapframe"}
    | {"maplink", "pre", "ref", "references", "score", "section", "source", "syntaxhighlight", "table", "templatedata"}
    | {"templatestyles", "timeline"}
)
# A formula or code that is a symbol or a number is a word of the sentence.
_DROPPED_UNLESS_SIMPLE = frozenset({"code", "kbd", "math", "samp"})
_SIMPLE_FORMULA = re.compile(r"[\w\s+\-=<>().,/*|!%′']{1,40}")
_TAG_NAME = re.compile(r"<(\w+)")
# Elements that part paragraphs. They are often not closed, for which the parser would search to the end of the page.
_BREAK = re.compile(r"<(?:br|hr|wbr)\b[^<>]*>", re.IGNORECASE)
_BLOCK = re.compile(r"</?(?:blockquote|center|div|dd|dl|dt|li|ol|p|poem|td|th|tr|ul)\b[^<>]*>", re.IGNORECASE)

_MEDIA_OR_CATEGORY = re.compile(r"\s*(?:file|image|media|category)\s*:", re.IGNORECASE)
# An article in another language or a sister project; ":de:…" shows as a link and stays.
_INTERWIKI = re.compile(r"\s*[a-z]{2,3}(?:-[a-z-]{2,15})?\s*:\S|\s*simple\s*:")
_TRAILING_PARENTHESIS = re.compile(r"\s*\([^()]*\)$|,[^,]*$")
_MAX_TITLE = 255
# What is left of brackets and tags that never close, and switches.
_STRAY = re.compile(r"\[\[|\]\]|\{\{+|\}\}+|</?[A-Za-z][^<>]*>|__[A-Z]{3,}__[ \t]*")
_ADDRESS = re.compile(r"(?:https?|ftp)://[^\s<>\[\]|{}]+", re.IGNORECASE)

_HEADING = re.compile(r"^(=++)(.*)=[ \t]*+$", re.MULTILINE)
_APPENDICES = frozenset(
    {"references", "reference", "external links", "external link", "see also", "further reading", "notes", "footnotes"}
    | {"bibliography", "sources", "citations", "works cited", "explanatory notes", "notes and references"}
    | {"references and notes", "notes and citations"}
)
_SIGNS_OF_MARKUP = ("[", "{", "<", "''")
_MIN_ITEM_WORDS = 5
_STOPS, _CLOSERS = (".", "!", "?"), "\"')]”’"
_CITATION = re.compile(r"\b(?:ISBN|ISSN|doi)\b|\bpp?\.\s?\d|[.(]\s?(?:1[5-9]|20)\d\d[a-z]?[).]{1,2}\s")
_BRACKET_BEGIN = re.compile(r"\([ ,;:]+")
_BRACKET_END = re.compile(r"(?<![ ,;:])[ ,;:]++\)")
_EMPTY_BRACKETS = re.compile(r" ?(?:\([–—/-]?\)|\[\])")
_SPACE_BEFORE_STOP = re.compile(r" ([,.;:!?])(?=[\s\"')\]]|$)")
_SPACES = re.compile(r"[ \t\u00a0]{2,}|[\t\u00a0]")


class _Page:
    """A page whose templates, elements and links give way to the words that they stand for, if any."""

    def __init__(self, text: str) -> None:
        self._text = text
        parsed = wikitextparser.parse(text)
        found: list[tuple[int, int, str | wikitextparser.Template]] = [(*aside.span, "") for aside in parsed.comments]
        found += [(*template.span, template if stands_for_words(template) else "") for template in parsed.templates]
        shown = [(tag, _text_of_tag(tag)) for tag in parsed.get_tags()]
        shown += [(link, _text_of_link(link)) for link in parsed.wikilinks]
        found += [(*aside.span, text) for aside, text in shown if text is not None]
        # The outer first: what is in it goes with it.
        self._asides = sorted(found, key=lambda aside: (aside[0], -aside[1]))
        self._starts = [start for start, _, _ in self._asides]

    def text(self, begin: int, end: int) -> str:
        """What stands between two places; links and emphasis in it are not plain yet."""
        parts = []
        number = bisect_left(self._starts, begin)
        while number < len(self._starts) and self._starts[number] < end:
            start, stop, shown = self._asides[number]
            number += 1
            # Elements may overlap with templates: "<b>{{a|</b>}}".
            if stop > end:
                continue
            parts.append(self._text[begin:start])
            parts.append(shown if isinstance(shown, str) else text_of_template(shown, self._text_of_argument))
            begin = stop
            number = bisect_left(self._starts, begin, number)
        return "".join([*parts, self._text[begin:end]])

    def _text_of_argument(self, argument: wikitextparser.Argument) -> str:
        end = argument.span[1]
        return self.text(end - len(argument.value), end)


def prose_of_wikitext(wikitext: str) -> str:
    """Paragraphs of an article, parted by blank lines.

    Templates go but for those that stand for words; so do references, tables, pictures, formulas that are more than a
    symbol, headings, the sections behind the article (references, see also and the like), and items of lists that are
    not sentences.

    Raises:
        NotWikitextError: no parser could read it.
    """
    text = _BLOCK.sub("\n\n", _BREAK.sub(" ", wikitext))
    check_bounds(text)
    try:
        sections = map(_plain, sections_of(_Page(text).text(0, len(text))))
        return "\n\n".join(filter(None, map(prose_of_lines, sections)))
    except Exception as error:  # The parser has none of its own: it fails as an index, a type or the stack does.
        raise NotWikitextError(f"the parser fails with {type(error).__name__}") from error


def sections_of(text: str) -> Iterator[str]:
    """What stands below each heading, but for the sections that are no part of the article."""
    begin = skipped_level = 0
    for heading in _HEADING.finditer(text):
        if not skipped_level:
            yield text[begin : heading.start()]
        begin, level = heading.end(), len(heading[1])
        if not skipped_level or level <= skipped_level:
            skipped_level = level if heading[2].strip("= \t").casefold() in _APPENDICES else 0
    if not skipped_level:
        yield text[begin:]


def prose_of_lines(text: str) -> str:
    """The paragraphs among lines that have lists and what is left of tables."""
    paragraphs: list[list[str]] = [[]]
    for line in text.split("\n"):
        _add_line(line, paragraphs)
    cleaned = (_clean(" ".join(lines)) for lines in paragraphs if lines)
    return "\n\n".join(paragraph for paragraph in cleaned if any(map(str.isalpha, paragraph)))


def _text_of_tag(tag: wikitextparser.Tag) -> str | None:
    """What stands in place of an element; None where that is what is in it."""
    match = _TAG_NAME.match(tag.string)
    name = match[1].lower() if match else ""
    if name in _DROPPED:
        return ""
    if name in _DROPPED_UNLESS_SIMPLE:
        contents = tag.contents.strip()
        return contents if _SIMPLE_FORMULA.fullmatch(contents) else ""
    if name == "nowiki":
        # Its signs are text.
        return "".join(f"&#{ord(sign)};" if sign in "[]{}|'<>=*#:;" else sign for sign in tag.contents)
    return None


def _text_of_link(link: wikitextparser.WikiLink) -> str | None:
    """What stands in place of a link; None where that is its text, or its target."""
    if not _has(link.string, ":", "|]", "| "):
        return None
    title, text = link.title, link.text
    if _MEDIA_OR_CATEGORY.match(title) or _INTERWIKI.match(title):
        return ""
    if text is None:
        return title.lstrip(":") if title.startswith(":") else None
    # An empty name is the target without what tells it from others.
    return None if text.strip() else _TRAILING_PARENTHESIS.sub("", title[:_MAX_TITLE]).lstrip(":")


def _plain(section: str) -> str:
    """The lines of a section without markup, but for that of lists."""
    if _has(section, *_SIGNS_OF_MARKUP):
        section = wikitextparser.remove_markup(
            section,
            replace_tables=lambda _: "",
            # Each of these two is a search of its own, which takes long.
            replace_external_links=_has(section, "//", "mailto:"),
            replace_bolds_and_italics="''" in section,
            unescape_html_entities=False,
        )
    # To look for fixed words is much faster than to match, and most sections have none of these.
    if "://" in section:
        section = _ADDRESS.sub("", section)
    if _has(section, "[[", "]]", "{{", "}}", "<", "__"):
        section = _STRAY.sub("", section)
    return html.unescape(section)


def _add_line(line: str, paragraphs: list[list[str]]) -> None:
    stripped = line.strip()
    if not stripped or line[0] in "|!" or stripped.startswith("----"):
        _end_paragraph(paragraphs)
    elif line[0] in "*#:; ":
        item = stripped.lstrip("*#:;").lstrip()
        _end_paragraph(paragraphs)
        if _is_sentence(item):
            paragraphs[-1].append(item)
            _end_paragraph(paragraphs)
    else:
        paragraphs[-1].append(stripped)


def _end_paragraph(paragraphs: list[list[str]]) -> None:
    if paragraphs[-1]:
        paragraphs.append([])


def _is_sentence(item: str) -> bool:
    is_long = len(item.split(None, _MIN_ITEM_WORDS - 1)) == _MIN_ITEM_WORDS
    return is_long and item.rstrip(_CLOSERS).endswith(_STOPS) and not _CITATION.search(item)


def _clean(paragraph: str) -> str:
    """A paragraph without the gaps that what was taken away has left."""
    paragraph = _SPACES.sub(" ", paragraph)
    if _has(paragraph, "( ", "(,", "(;", "(:"):
        paragraph = _BRACKET_BEGIN.sub("(", paragraph)
    if _has(paragraph, " )", ",)", ";)", ":)"):
        paragraph = _BRACKET_END.sub(")", paragraph)
    if _has(paragraph, "()", "(–)", "(—)", "(-)", "(/)", "[]"):
        paragraph = _EMPTY_BRACKETS.sub("", paragraph)
    if _has(paragraph, " ,", " .", " ;", " :", " !", " ?"):
        paragraph = _SPACE_BEFORE_STOP.sub(r"\1", paragraph)
    return paragraph.strip()


def _has(text: str, *words: str) -> bool:
    return any(word in text for word in words)
