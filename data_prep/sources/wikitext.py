"""Prose out of wikitext.

Brackets are taken away from the inside out, a level at a time, so whatever is nested is plain when what is around it is
looked at; what never closes does not take the rest of the page with it. Time is linear in the length of the page.

mwparserfromhell and wikitextparser were measured beside this, see benchmarks/wikitext.py. Used with care they leave as
little, but on whole articles they take ten to twenty times as long, lose more, and what to keep of a template, a table
or a picture has to be written all the same: it is not the parser's to say.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from data_prep.sources.wikitext_templates import text_of_template

_MAX_DEPTH = 40
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
# Elements that go with what is in them.
_DROPPED = (
    "ce|chem|code|categorytree|gallery|graph|hiero|imagemap|includeonly|inputbox|kbd|mapframe|maplink|math|nowiki|pre"
    "|ref|references|samp|score|section|source|syntaxhighlight|table|templatedata|templatestyles|timeline"
)
_OPENING = re.compile(rf"<({_DROPPED})(?![\w-])([^<>]*)>", re.IGNORECASE)
_CLOSING = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _DROPPED.split("|")}
_SIMPLE_FORMULA = re.compile(r"[\w\s+\-=<>().,/*|!%′']{1,40}")
_BREAK = re.compile(r"<(?:br|hr|wbr)\b[^<>]*>", re.IGNORECASE)
_BLOCK = re.compile(r"</?(?:blockquote|center|div|dd|dl|dt|li|ol|p|poem|td|th|tr|ul)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)

_TEMPLATE = re.compile(r"\{\{([^{}]*+(?:\{(?!\{)[^{}]*+\}[^{}]*+)*+)\}\}")
_ARGUMENT = re.compile(r"\{\{\{[^{}]*+\}\}\}")
_LINK = re.compile(r"\[\[([^\[\]]*+(?:\[(?!\[)[^\[\]]*+\][^\[\]]*+)*+)\]\]")
_EXTERNAL = re.compile(r"\[(?:(?:https?:|ftp:)?//|mailto:)[^\s\[\]]++[ \t]*+([^\[\]\n]*+)\]", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?|ftp)://[^\s<>\[\]|{}]+", re.IGNORECASE)
_MEDIA_OR_CATEGORY = re.compile(r"\s*(?:file|image|media|category)\s*:", re.IGNORECASE)
# An article in another language or a sister project; ":de:…" shows as a link and stays.
_INTERWIKI = re.compile(r"\s*[a-z]{2,3}(?:-[a-z-]{2,15})?\s*:\S|\s*simple\s*:")
_MAX_TITLE = 255
_TRAILING_PARENTHESIS = re.compile(r"\s*\([^()]*\)$|,[^,]*$")
_SWITCH = re.compile(r"__[A-Z]{3,}__[ \t]*")

_APPENDICES = frozenset(
    {"references", "reference", "external links", "external link", "see also", "further reading", "notes", "footnotes"}
    | {"bibliography", "sources", "citations", "works cited", "explanatory notes", "notes and references"}
    | {"references and notes", "notes and citations"}
)
_TABLE_BEGIN, _TABLE_END = re.compile(r"[:*#\s]*\{\|"), re.compile(r"\s*\|\}")
_MIN_ITEM_WORDS = 5
_STOPS, _CLOSERS = (".", "!", "?"), "\"')]”’"
_CITATION = re.compile(r"\b(?:ISBN|ISSN|doi)\b|\bpp?\.\s?\d|[.(]\s?(?:1[5-9]|20)\d\d[a-z]?[).]{1,2}\s")
_BRACKET_BEGIN = re.compile(r"\([ ,;:]+")
_BRACKET_END = re.compile(r"(?<![ ,;:])[ ,;:]++\)")
_EMPTY_BRACKETS = re.compile(r" ?(?:\([–—/-]?\)|\[\])")
_SPACE_BEFORE_STOP = re.compile(r" ([,.;:!?])(?=[\s\"')\]]|$)")
_SPACES = re.compile(r"[ \t\u00a0]{2,}|[\t\u00a0]")
_STRAY = re.compile(r"\[\[|\]\]|\{\{+|\}\}+")


def prose_of_wikitext(wikitext: str) -> str:
    """Paragraphs of an article, parted by blank lines.

    Templates go but for those that stand for words; so do references, tables, pictures, formulas that are more than a
    symbol, headings, the sections behind the article (references, see also and the like), and items of lists that are
    not sentences.
    """
    return prose_of_lines(without_brackets(wikitext))


def without_brackets(wikitext: str) -> str:
    """The lines of a page without elements, templates, links and emphasis; headings, lists and tables are left."""
    text = _without_elements(_COMMENT.sub("", wikitext))
    text = _inside_out(_TEMPLATE, text_of_template, _ARGUMENT.sub("", text))
    text = _BLOCK.sub("\n\n", _BREAK.sub(" ", text))
    text = _TAG.sub("", text)
    text = _EXTERNAL.sub(r"\1", text)
    text = _inside_out(_LINK, _text_of_link, text)
    for quotes in ("'''''", "'''", "''"):
        text = text.replace(quotes, "")
    for pattern in (_ADDRESS, _SWITCH, _STRAY):
        text = pattern.sub("", text)
    return html.unescape(text)


def prose_of_lines(text: str) -> str:
    """The paragraphs among lines that have headings, lists and tables."""
    paragraphs: list[list[str]] = [[]]
    skipped_level = depth = 0
    for line in text.split("\n"):
        if line.startswith("=") and line.rstrip().endswith("="):
            # A table that never closes ends here.
            depth, level = 0, len(line) - len(line.lstrip("="))
            if not skipped_level or level <= skipped_level:
                skipped_level = level if line.strip("= \t").casefold() in _APPENDICES else 0
            _end_paragraph(paragraphs)
            continue
        if "{|" in line and _TABLE_BEGIN.match(line):
            depth += 1
            _end_paragraph(paragraphs)
        elif depth and _TABLE_END.match(line):
            depth -= 1
        elif not depth and not skipped_level:
            _add_line(line, paragraphs)
    cleaned = (_clean(" ".join(lines)) for lines in paragraphs if lines)
    return "\n\n".join(paragraph for paragraph in cleaned if any(map(str.isalpha, paragraph)))


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
    # Most paragraphs have none of these, and to look for fixed words is much faster than to match.
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


def _without_elements(text: str) -> str:
    parts, end = [], 0
    unclosed = set()
    for match in _OPENING.finditer(text):
        if match.start() < end:
            continue
        parts.append(text[end : match.start()])
        end = match.end()
        name = match[1].lower()
        if match[2].endswith("/"):
            continue
        # One that is not closed is looked for once, not again for each that opens.
        closing = _CLOSING[name].search(text, end) if name not in unclosed else None
        if closing is None:
            unclosed.add(name)
        else:
            parts.append(_text_of_element(name, text[end : closing.start()]))
            end = closing.end()
    return "".join([*parts, text[end:]])


def _text_of_element(name: str, content: str) -> str:
    """A formula that is a symbol or a number is a word of the sentence; what is not markup shows as it is."""
    if name == "math" and _SIMPLE_FORMULA.fullmatch(content):
        return content.strip()
    if name == "nowiki":
        return "".join(f"&#{ord(sign)};" if sign in "[]{}|'<>=*#:;" else sign for sign in content)
    return content if name in ("code", "kbd", "samp") and _SIMPLE_FORMULA.fullmatch(content) else ""


def _inside_out(pattern: re.Pattern[str], text_of: Callable[[str], str], text: str) -> str:
    """Replaces what has no more such brackets inside, then what has none then, and so on."""
    for _ in range(_MAX_DEPTH):
        text, count = pattern.subn(lambda match: text_of(match[1]), text)
        if not count:
            break
    return text


def _text_of_link(inside: str) -> str:
    target, bar, shown = inside.partition("|")
    if _MEDIA_OR_CATEGORY.match(target) or _INTERWIKI.match(target):
        return ""
    if bar and shown.strip():
        return shown.rpartition("|")[2]
    # An empty name is the target without what tells it from others.
    return _TRAILING_PARENTHESIS.sub("", target[:_MAX_TITLE]).lstrip(":") if bar else target.lstrip(":")
