"""Ways to get prose out of wikitext, by speed and by what they leave: `python benchmarks/wikitext.py DUMP.xml.bz2`.

Chosen is wikitextparser with care, as data_prep/sources/wikitext.py uses it: it leaves no markup, loses the least, and
with bounds on what is nested or never closes it takes no broken page for long. mwparserfromhell is slower, loses more,
and hangs on tags that are not closed.

Each way reads the same articles of a real dump. "As it comes" is a library's own call for text without markup; "with
care" first takes out, with the library's own means, what is not prose (references, tables, files, categories, sections
behind the article) and then goes through the same reading of lines, so the difference is that of the parsers.

Per million characters of prose are counted: brackets, bars, tags and addresses that were left; words of pictures and
tables; and holes, where something that stood for words was taken out of a sentence. "Lost" is the share of stretches of
60 characters and more without any sign of markup, in lines of the article that begin with a letter, that are not in the
prose. A second table has the seconds that pages take which are nothing but such signs, in a process of its own each.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import re
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mwparserfromhell
import wikitextparser

from data_prep.sources.cutting import FileChunk, Piece
from data_prep.sources.wikipedia import WikipediaDump
from data_prep.sources.wikitext import prose_of_lines, prose_of_wikitext, sections_of
from data_prep.sources.wikitext_bounds import NotWikitextError

LEFT = {
    "[[ ]]": re.compile(r"\[\[|\]\]"),
    "{{ }}": re.compile(r"\{\{|\}\}"),
    "bars": re.compile(r"\|"),
    "tags": re.compile(r"</?[a-z]+[^<>]*>", re.IGNORECASE),
    "''": re.compile(r"''+"),
    "addresses": re.compile(r"https?://"),
    "pictures, tables": re.compile(r"\bthumb\b|\b\d+px\b|\b(?:File|Image|Category):|\b(?:align|style|colspan|class)="),
    "holes": re.compile(r" [,.;](?=\s)|\( ?[,;)]|\b(?:of|about|than|is) \."),
}
PAGE = re.compile(rb"<page>.*?</page>", re.DOTALL)
STRETCH = re.compile(r"[^\[\]{}<>|'=&*#:;_\n\"]{60,}")
REFERENCE = re.compile(r"<ref[^<>]*/>|<ref.*?</ref>|<!--.*?-->", re.DOTALL)
APPENDIX = re.compile(
    r"^==+ *(?:references|external links|see also|further reading|notes|bibliography|sources) *==+ *$"
)
DROPPED_TAGS = (
    "ref",
    "references",
    "gallery",
    "math",
    "timeline",
    "table",
    "score",
    "source",
    "syntaxhighlight",
    "pre",
)
NOT_PROSE = ("file:", "image:", "category:", "media:")
LIMIT_S = 20
HOSTILE = {
    "20 000 `<ref>`": "<ref>" * 20_000,
    "20 000 `{|`": "{|\n" * 20_000,
    "20 000 `<div>`": "<div>" * 20_000,
    "20 000 `[http://a`": "[http://a" * 20_000,
    "2000 templates deep": "{{a|" * 2000 + "}}" * 2000,
    "500 × 40 templates deep": ("{{a|" * 40 + "}}" * 40) * 500,
}
INTERWIKI = re.compile(r"[a-z]{2,3}(-[a-z-]+)?:")


def main() -> None:
    """Reads the dump and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", type=Path)
    parser.add_argument("--articles", type=int, default=100, help="no more than so many")
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts")
    arguments = parser.parse_args()
    articles = [text for _, text in zip(range(arguments.articles), articles_of(arguments.dump), strict=False)]
    num_bytes = sum(len(text.encode()) for text in articles)
    print(f"{len(articles)} articles, {num_bytes / 1e6:.1f} MB of wikitext, one core, best of {arguments.rounds}\n")
    print(f"| way | MB/s | words | lost | {' | '.join(LEFT)} |")
    print(f"|{'---|' * (4 + len(LEFT))}")
    stretches = [stretches_of(text) for text in articles]
    for name, way in WAYS.items():
        seconds, prose = timed(way, articles, arguments.rounds)
        print(row_of(name, num_bytes / 1e6 / seconds, prose, stretches), flush=True)
    print(f"\n| page | {' | '.join(WAYS)} |\n|{'---|' * (1 + len(WAYS))}")
    for page, wikitext in HOSTILE.items():
        print(f"| {page} | {' | '.join(seconds_on(way, wikitext) for way in WAYS.values())} |", flush=True)


def articles_of(dump: Path) -> Iterator[str]:
    """The wikitext of pages of namespace 0 that are no redirects."""
    for chunk in WikipediaDump.at(f"wikipedia-xml:{dump}", dump).chunks():
        assert isinstance(chunk, FileChunk)
        for piece in chunk.pieces:
            for match in PAGE.finditer(piece.data if isinstance(piece, Piece) else b""):
                page = ET.fromstring(match[0])
                text = page.findtext("revision/text")
                if text and page.findtext("ns") == "0" and page.find("redirect") is None:
                    yield text


def timed(way: Callable[[str], str], articles: list[str], rounds: int) -> tuple[float, list[str]]:
    """The seconds of processor time of the fastest round, and the prose."""
    seconds = []
    for _ in range(rounds):
        begin_s = time.process_time()
        prose = [way(text) for text in articles]
        seconds.append(time.process_time() - begin_s)
    return min(seconds), prose


def seconds_on(way: Callable[[str], str], wikitext: str) -> str:
    """How long a page takes, its process started and ended."""
    process = multiprocessing.Process(target=_read, args=(way, wikitext))
    begin_s = time.perf_counter()
    process.start()
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return f"> {LIMIT_S} s"
    return f"{time.perf_counter() - begin_s:.1f} s" + ("" if process.exitcode == 0 else ", fails")


def _read(way: Callable[[str], str], wikitext: str) -> None:
    with contextlib.suppress(NotWikitextError):
        way(wikitext)


def row_of(name: str, speed: float, prose: list[str], stretches: list[list[str]]) -> str:
    """A row of the table."""
    num_characters = sum(map(len, prose))
    num_words = sum(len(text.split()) for text in prose)
    lost = total = 0
    for text, wanted in zip(prose, stretches, strict=True):
        plain = "".join(text.split())
        lost += sum("".join(stretch.split()) not in plain for stretch in wanted)
        total += len(wanted)
    left = (sum(len(pattern.findall(text)) for text in prose) / num_characters * 1e6 for pattern in LEFT.values())
    counts = " | ".join(f"{count:.0f}" for count in left)
    return f"| {name} | {speed:.2f} | {num_words:,} | {lost / total:.2%} | {counts} |"


def stretches_of(wikitext: str) -> list[str]:
    """Stretches of text that are prose whatever one thinks of markup."""
    found = []
    for line in REFERENCE.sub("\n", wikitext).split("\n"):
        if APPENDIX.match(line.lower()):
            break
        # Within a template a line may begin with a letter, but not go on for long.
        if line[:1].isalpha() and len(line) > 200:
            found += [stretch.strip() for stretch in STRETCH.findall(line)]
    return found


def mwparserfromhell_as_it_comes(wikitext: str) -> str:
    """Its `strip_code`."""
    return mwparserfromhell.parse(wikitext).strip_code()


def mwparserfromhell_with_care(wikitext: str) -> str:
    """Nodes that are no prose taken out of each section."""
    code = mwparserfromhell.parse(wikitext, skip_style_tags=False)
    lines = []
    for section in code.get_sections(flat=True, include_lead=True, include_headings=True):
        headings = section.filter_headings()
        if headings:
            lines.append(f"{'=' * headings[0].level}{headings[0].title}{'=' * headings[0].level}")
            section.remove(headings[0])
        for node in section.ifilter_wikilinks():
            title = str(node.title).strip().lower()
            if title.startswith(NOT_PROSE) or INTERWIKI.match(title):
                _remove(section, node)
        for node in section.ifilter_tags():
            if str(node.tag).lower() in DROPPED_TAGS:
                _remove(section, node)
        lines.append(section.strip_code(collapse=False))
    return "\n\n".join(filter(None, map(prose_of_lines, sections_of("\n".join(lines)))))


def _remove(code: mwparserfromhell.wikicode.Wikicode, node: mwparserfromhell.nodes.Node) -> None:
    # What is inside one that was removed is gone already.
    with contextlib.suppress(ValueError):
        code.remove(node)


def wikitextparser_as_it_comes(wikitext: str) -> str:
    """Its `plain_text`."""
    return wikitextparser.parse(wikitext).plain_text()


WAYS: dict[str, Callable[[str], str]] = {
    "mwparserfromhell, as it comes": mwparserfromhell_as_it_comes,
    "mwparserfromhell, with care": mwparserfromhell_with_care,
    "wikitextparser, as it comes": wikitextparser_as_it_comes,
    "wikitextparser, with care": prose_of_wikitext,
}


if __name__ == "__main__":
    main()
