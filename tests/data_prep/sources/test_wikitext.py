"""What is kept of wikitext, by example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wikitextparser import Template

from data_prep.sources.wikitext import prose_of_wikitext
from data_prep.sources.wikitext_templates import text_of_template

INLINE = [
    ("It is '''bold''', ''soft'' and '''''both'''''; l''''amour'''.", "It is bold, soft and both; l'amour."),
    ("A [[cat]], two [[cat]]s, a [[dog (animal)|dog]] and [[Paris, Texas|]].", "A cat, two cats, a dog and Paris."),
    ("See [[:Category:Cats]] and [[wikt:word|a word]].", "See Category:Cats and a word."),
    ("Here[[Category:Cats]][[de:Katze]][[zh-min-nan:Niau]] it ends.", "Here it ends."),
    ("[[File:a.png|thumb|A [[cat]] and {{nowrap|a dog}} [http://x.org here].]]It is here.", "It is here."),
    ("[[Image:a.png|[sic] a picture]]It is here.", "It is here."),
    ("See [http://x.org/a?b=c the page], [//x.org] or https://x.org/a now.", "See the page, or now."),
    ("It is.<ref>Smith {{cite|a}}</ref> So<ref name=\"a\" /> it goes<REF group=n>x</Ref >.", "It is. So it goes."),
    ("Before<!-- not\n\n this --> behind.", "Before behind."),
    ("It is{{citation needed|date=May 2020}} so {{small|and {{lang|fr|ainsi}}}}.", "It is so and ainsi."),
    ("About {{convert|5|km|mi|abbr=on}} or {{convert|3|-|4|ft}} away.", "About 5 km or 3–4 feet away."),
    ("Cicero ({{IPA|x}}; {{lang-el|1=y}}; born {{circa|106 BC}}) spoke.", "Cicero (y; born c. 106 BC) spoke."),
    ("Cicero ({{IPA|x}}; {{audio|y}}) spoke ( ).", "Cicero spoke."),
    ("Of {{lang|ja|[[wikt:気|気]]}} and {{as of|2011|5}} it is.", "Of 気 and As of May 2011 it is."),
    ("If <math>x</math> is <math>\\frac{a}{b}</math> big.", "If x is big."),
    ("Use <code>print</code> and <code>{x: [y]}</code> here.", "Use print and here."),
    ("Write <nowiki>[[this]] or {{that}}</nowiki> so.", "Write [[this]] or {{that}} so."),
    ("H<sub>2</sub>O is<br />wet &amp; 5&nbsp;&lt;&nbsp;6 <span style=\"a\">now</span>.", "H2O is wet & 5 < 6 now."),
    ("__NOTOC__ It is{{{1| there}}}{{{2}}}.", "It is there."),
    ("An open {{bracket and [[another stay text.", "An open bracket and another stay text."),
    ("A {{nowrap|{{lang|fr|''[[chat|x]]''}}<ref>a</ref> or {{circa|{{small|5}}}}}} now.", "A x or c. 5 now."),
    ("A <small>cat {{nowrap|</small> or a dog}}.", "A cat or a dog."),
    ("It<!-- is\n== References ==\n-->self <!-- not\n== Notes ==\nhere", "Itself"),
    ("It{{'s}} {{=}}{{!}}{{Template:ndash}}.", "It's =|–."),
    ("An open <ref>reference takes nothing.\n\nNor <ref>this.", "An open reference takes nothing.\n\nNor this."),
    ("{{Infobox\n| name = x\n| map = {{map|{{point|1}}\n| 2}}\n}}\nIt is here.", "It is here."),
]  # fmt: skip


@pytest.mark.parametrize(("wikitext", "prose"), INLINE)
def test_markup_inside_a_line(wikitext: str, prose: str) -> None:
    assert prose_of_wikitext(wikitext) == prose


ITEM = "An item of a list that is a sentence."
LINES = {
    "paragraphs": ("One line\ngoes on.\n\nTwo.\n\n\n\nThree.", "One line goes on.\n\nTwo.\n\nThree."),
    "headings": ("One.\n== History ==\nTwo.\n=== ''More'' ===\nThree.", "One.\n\nTwo.\n\nThree."),
    "appendices": (
        "One.\n== See also ==\nx y\n=== Deeper ===\nz\n== Literature ==\nTwo.\n==References==\nThree.\n=Top=\nFour.",
        "One.\n\nTwo.\n\nFour.",
    ),
    "lists": (
        f"One:\n* {ITEM}\n*# No sentence\n** {ITEM}\n: Short one.\n; Term\nTwo.",
        f"One:\n\n{ITEM}\n\n{ITEM}\n\nTwo.",
    ),
    "books": (
        "* Doe, John. ''A book of many words''. London: Press. ISBN 90-04-10051-2.\n"
        "* Doe (1990). A book of words.\n* Doe, John. 1995. A book of words.\n* Doe, A book of words, p. 12.",
        "",
    ),
    "preformatted": (f"One.\n x = 1\n {ITEM}\n", f"One.\n\n{ITEM}"),
    "table": ('One.\n{| class="a"\n! head\n|-\n| cell\n{|\n| inner\n|}\n| cell\n|}\nTwo.', "One.\n\nTwo."),
    "table without end": ("One.\n:{|\n| cell\n== History ==\nTwo.", "One.\n\nTwo."),
    "rows of a table that a template began": ("{{table begin}}\n|-\n| cell\n! head\n|}\nTwo.", "Two."),
    "gallery": ("One.\n<gallery>\nFile:a.png|A picture\n</gallery>\nTwo.", "One.\n\nTwo."),
    "quotation": ("One.\n<blockquote>Two.</blockquote>\nThree.", "One.\n\nTwo.\n\nThree."),
    "rule": ("One.\n----\nTwo.", "One.\n\nTwo."),
    "nothing": ("{{stub}}\n[[Category:x]]\n== References ==\n{{reflist}}\n...", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_lines(name: str) -> None:
    wikitext, prose = LINES[name]
    assert prose_of_wikitext(wikitext) == prose


TEMPLATES = [
    ("ndash", "–"), ("snd", " – "), ("'", "'"), ("cite web|url=x|title=y", ""), ("Infobox", ""), ("nowrap|a b", "a b"),
    ("nowrap|1=a b", "a b"), ("Lang|fr|x", "x"), ("lang", ""), ("langx|de|x|lit=y", "x"), ("lang-de|x", "x"),
    ("Font_color|red|x", "x"), ("convert|10|sqmi|km2", "10 square miles"), ("cvt|3|x|4|m", "3 x 4 m"),
    ("convert|3", "3"),
    ("frac|1|2", "1/2"), ("frac|3|1|2", "3 1/2"), ("c.|1500|1510", "c. 1500–1510"), ("reign|1|2", "r. 1–2"),
    ("start date|1990|12|24", "24 December 1990"), ("start date|1990|13", "1990"), ("as of|2020", "As of 2020"),
    ("chem|H|2|O", "H2O"), ("quote|text=It is|author=X", "It is"), ("val|5|ul=m", "5"), ("", ""), ("|", ""),
]  # fmt: skip


@pytest.mark.parametrize(("inside", "text"), TEMPLATES)
def test_templates_that_stand_for_words(inside: str, text: str) -> None:
    assert text_of_template(Template("{{" + inside + "}}"), lambda argument: argument.value) == text


SIGNS = (
    "[[",
    "]]",
    "{{",
    "}}",
    "{|",
    "|}",
    "|",
    "\n",
    "=",
    "<ref>",
    "</ref>",
    "<!--",
    "<math>",
    "'''",
    "* ",
    "File:",
    "x",
)


@given(st.lists(st.sampled_from(SIGNS) | st.text(max_size=3)).map("".join))
def test_any_text_gives_paragraphs_without_brackets(wikitext: str) -> None:
    prose = prose_of_wikitext(wikitext)
    assert all(paragraph == paragraph.strip() != "" for paragraph in prose.split("\n\n")) or prose == ""
    if "&" not in wikitext:
        assert not any(sign in prose for sign in ("<!--", "\n\n\n"))
