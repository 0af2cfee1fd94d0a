"""Keeps the prose of a text and drops the rest.

Docstrings, reStructuredText and Markdown hold code, sessions of the interpreter, tables, headings and lists of
parameters between their sentences. `prose_of_markup` goes through the lines once and keeps what is written for people;
a description of a parameter is kept, its name and type are not. `is_prose` then judges each sentence by what it is made
of. Plain text is the author's own choice: `prose_of_text` only normalises white space.
"""

from __future__ import annotations

import inspect
import re
import unicodedata

# Directives whose body is prose: the marker goes, the body stays. The body of any other is dropped.
_PROSE_DIRECTIVES = frozenset(
    {"admonition", "attention", "caution", "danger", "deprecated", "error", "hint", "important", "note", "seealso"}
    | {"tip", "topic", "warning"}
)
_DIRECTIVE = re.compile(r"\.\.\s+([\w:-]+?)::\s*(.*)")
_COMMENT_OR_TARGET = re.compile(r"\.\.(\s|$)|__\s")
_FENCE = re.compile(r"(```|~~~)")
_RULE = re.compile(r"[\s=\-+|~^\"'*#:._`<>]{3,}")  # an underline or the edge of a table
_TABLE_EDGE = re.compile(r"\+[-=+]+|[=-]+(\s+[=-]+)+")
_DOCTEST = re.compile(r"(>>>|\.\.\. |In \[\d*\]:|Out\[\d*\]:|\$ |% |# )")
_BULLET = re.compile(r"([-*+•]|\(?\d{1,2}[.)])\s+")
_FIELD = re.compile(r"[:@](\w+)(?:\s+[^:]*)?:\s*(.*)")
_TYPE_FIELDS = frozenset({"rtype", "type", "vartype"})
_SECTION = re.compile(
    r"(?:keyword |other |optional )?(?:args?|arguments?|params?|parameters|kwargs|attributes|fields|inputs?|outputs?"
    r"|returns?|yields?|raises|warns|shapes?|examples?|usage|notes?|warnings?|references|see also|todo|methods):",
    re.IGNORECASE,
)
_TYPED_ENTRY = re.compile(r"[*`]*[\w.*, `]+[`*]*\s+\([^)]*\)\s*:\s*(.*)")
_PLAIN_ENTRY = re.compile(r"[*`]*[\w.*]+[`*]*\s*:\s+(.*)")
_NUMPY_ENTRY = re.compile(r"[*`\w][\w.*, `]* : \S.*")

# Lengths are bounded: a file of one sign repeated is read in time, too.
_INLINE = [
    (re.compile(r":[\w:+-]{1,60}:`~?(?:[^`<]*\.)?([^`<]+?)(?:\s*<[^`>]*>)?`"), r"\1"),  # :class:`~package.Name`
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),  # `text <target>`_
    (re.compile(r"!?\[([^\]]{0,500})\]\([^)]{0,2000}\)"), r"\1"),  # [text](target)
    (re.compile(r"\s?\[[\w#*-]+\]_"), ""),  # [1]_
    (re.compile(r"`+([^`]*?)`+_{0,2}"), r"\1"),
    (re.compile(r"(?<![\w*\\])\*{1,2}(?=\S)([^*\n]+?)(?<=\S)\*{1,2}(?![\w*])"), r"\1"),
    (re.compile(r"<?\b(?:https?|ftp)://[^\s>)\]]+>?"), ""),
    (re.compile(r"</?[A-Za-z][^<>]*>"), ""),
    (re.compile(r"\\([*_`|])"), r"\1"),
]
_BLANK_BEGINNING = re.compile(r"\A\s*\n")
_SPACES = re.compile(r"\s+")
_CODE_SIGNS = re.compile(r"[{}|\\<>$@^~]|==|[-=]>|::|__|\)\.|\(\)\s*[,(]|\w=\S|\w\[|;$")
_WORD = re.compile(r"[(\[\"'“‘]*[A-Za-z]+(?:['’-][A-Za-z]+)*[)\]\"'”’.,;:!?…]*")
_MIN_WORDS, _MIN_WORD_SHARE = 4, 0.8


def prose_of_text(text: str) -> list[str]:
    """Paragraphs of plain text, which blank lines part; white space becomes single spaces."""
    paragraphs = (normalise(paragraph) for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n")))
    return [paragraph for paragraph in paragraphs if any(map(str.isalpha, paragraph))]


def prose_of_markup(text: str) -> list[str]:
    """Paragraphs of prose in a docstring, reStructuredText or Markdown, without markup."""
    reader = _MarkupReader()
    # cleandoc takes away blank lines at the beginning one by one, each time moving all the others.
    for line in inspect.cleandoc(_BLANK_BEGINNING.sub("\n", text)).splitlines():
        reader.read(line)
    reader.end_paragraph()
    paragraphs = (normalise(without_markup(paragraph)) for paragraph in reader.paragraphs)
    return [paragraph for paragraph in paragraphs if paragraph]


def is_prose(sentence: str) -> bool:
    """Whether a sentence from documentation is English rather than code, a table's row or a heading."""
    words = sentence.split()
    if len(words) < _MIN_WORDS or _CODE_SIGNS.search(sentence):
        return False
    num_words = sum(_WORD.fullmatch(word) is not None for word in words)
    num_lower = sum(word[:1].islower() for word in words)
    return num_words >= _MIN_WORD_SHARE * len(words) and num_lower >= len(words) // 3


def normalise(text: str) -> str:
    """Composed characters (NFC), no control characters, single spaces."""
    text = unicodedata.normalize("NFC", text)
    if not text.isascii() or not text.isprintable():
        text = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    return _SPACES.sub(" ", text).strip()


def without_markup(text: str) -> str:
    """The text of inline markup: roles, links, literals, emphasis; addresses are dropped."""
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return text


class _MarkupReader:
    """Collects paragraphs line by line."""

    def __init__(self) -> None:
        self.paragraphs: list[str] = []
        self._lines: list[str] = []
        self._is_fenced = False
        self._block: int | None = None
        """Lines deeper than this indentation are code until one is not."""
        self._entries: int | None = None
        """Lines deeper than this indentation are "name: description"."""
        self._skips_to_blank = False
        """In a table or a session of the interpreter, which ends with a blank line."""

    def read(self, line: str) -> None:
        """Takes the next line."""
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if _FENCE.match(stripped):
            self._is_fenced = not self._is_fenced
            self.end_paragraph()
        elif self._is_fenced or self._is_in_block(stripped, indent):
            return
        elif not stripped:
            self._skips_to_blank = False
            self._open_block_if_announced(indent)
            self.end_paragraph()
        elif self._skips_to_blank:
            return
        elif _DOCTEST.match(stripped):
            self._skips_to_blank = not stripped.startswith("#")
            self.end_paragraph()
        elif _RULE.fullmatch(stripped):
            # What stands above it is a heading, or that of a table.
            del self._lines[-1:]
            self._skips_to_blank = _TABLE_EDGE.fullmatch(stripped) is not None
            self.end_paragraph()
        elif not self._read_directive(stripped, indent) and not self._read_entry(stripped, indent):
            self._lines.append(line)

    def end_paragraph(self) -> None:
        """What comes next is another paragraph."""
        if self._lines:
            self.paragraphs.append("\n".join(self._lines))
        self._lines = []

    def _begin_paragraph(self, text: str) -> bool:
        self.end_paragraph()
        if text:
            self._lines = [text]
        return True

    def _is_in_block(self, stripped: str, indent: int) -> bool:
        if self._block is not None and stripped and indent <= self._block:
            self._block = None
        return self._block is not None

    def _open_block_if_announced(self, indent: int) -> None:
        """A paragraph that ends with two colons announces code."""
        if self._lines and self._lines[-1].rstrip().endswith("::"):
            last = self._lines[-1]
            self._block = len(last) - len(last.lstrip())
            self._lines[-1] = last.rstrip()[:-1]

    def _read_directive(self, stripped: str, indent: int) -> bool:
        if stripped[0] == "|":  # a row of a table
            self.end_paragraph()
            return True
        match = _DIRECTIVE.match(stripped)
        if match is None:
            return bool(_COMMENT_OR_TARGET.match(stripped))
        name, rest = match.groups()
        if name not in _PROSE_DIRECTIVES:
            self._block, rest = indent, ""
        return self._begin_paragraph("" if name == "deprecated" else rest)

    def _read_entry(self, stripped: str, indent: int) -> bool:
        """Headings, items and lists of parameters: keeps the description alone."""
        if self._entries is not None and indent <= self._entries:
            self._entries = None
        if stripped[0] == "#":
            return self._begin_paragraph("")
        if _SECTION.fullmatch(stripped):
            self._entries = indent
            return self._begin_paragraph("")
        field = _FIELD.match(stripped)
        if field is not None:
            return self._begin_paragraph("" if field.group(1) in _TYPE_FIELDS else field.group(2))
        if _NUMPY_ENTRY.fullmatch(stripped):
            return self._begin_paragraph("")
        bullet = _BULLET.match(stripped)
        if bullet is not None:
            stripped = stripped[bullet.end() :]
            self.end_paragraph()
        entry = _TYPED_ENTRY.fullmatch(stripped)
        if entry is None and (bullet is not None or self._entries is not None):
            entry = _PLAIN_ENTRY.fullmatch(stripped)
        if entry is not None:
            return self._begin_paragraph(entry.group(1))
        return bullet is not None and self._begin_paragraph(stripped)
