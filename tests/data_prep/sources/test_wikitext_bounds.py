"""Pages that are broken, or were made to take long."""

from __future__ import annotations

import contextlib
import time

import pytest
import wikitextparser

from data_prep.sources.wikitext import prose_of_wikitext
from data_prep.sources.wikitext_bounds import NotWikitextError

NUM_CHARACTERS = 100_000
# What grows with the square of the length would take minutes.
MAX_S = 10.0
RUNS = [
    "[[", "]]", "{{", "}}", "{{{", "[[a|", "{{a|", "<ref>", "<ref name=a", "<!--", "[http://a", "[[ ", "{ ", "=", "= ",
    " =", "(", "( ", ", ", ",", " )", "* ", "*", ": ", "'", "''", "<math>", "http://", "{|\n", "__A", "&amp;", "<",
    "x ", "x", "[[File:a|[[b]] ", "{{a|{{b}} ", "\n", "\n\n ", " \t", "[a ", "{a ",
    "\n{|", "<div>", "<b>", "<br>", "<table>", "<div>/>", "<ref></b>", "</ref>",
    "\n{|\n|a\n|}\n", "[[a]]", "{{a}}", "{{{a}}}", "{{nowrap|a}}", "{{lang|fr|[[a]]}}", "[http://a b]",
    "'''a'''\n", "<span>a</span>", "<ref>a</ref>", "<ref/>", "<!-- a -->", "== a ==\n",
]  # fmt: skip


def seconds_of(wikitext: str) -> float:
    begin_s = time.process_time()
    with contextlib.suppress(NotWikitextError):
        prose_of_wikitext(wikitext)
    return time.process_time() - begin_s


@pytest.mark.parametrize("sign", RUNS)
def test_long_runs_take_no_longer_than_text(sign: str) -> None:
    run = sign * (NUM_CHARACTERS // len(sign))
    assert seconds_of(f"= {run} x") < MAX_S
    assert seconds_of(f"* {run} x") < MAX_S


NESTS = [
    ("{{a|", "}}"), ("{{nowrap|", "}}"), ("{{a| } } ", "}}"), ("{{#if:a|", "}}"), ("{{{a|", "}}}"), ("[[a|", "]]"),
    ("[[File:a.png|", "]]"), ("\n{|\n|", "\n|}"), ("<div>", "</div>"), ("<span>", "</span>"), ("<ref>", "</ref>"),
]  # fmt: skip


@pytest.mark.parametrize(("opening", "closing"), NESTS)
@pytest.mark.parametrize("depth", [10, 40, 2000, 20_000])
def test_what_is_nested_takes_no_longer_than_text(opening: str, closing: str, depth: int) -> None:
    nest = opening * depth + " x " + closing * depth
    assert seconds_of(nest * (NUM_CHARACTERS // len(nest) or 1)) < MAX_S


@pytest.mark.parametrize("sign", ["<ref>", "<ref name=a", "<span>", "[http://a", "\n{|\n|a\n|}"])
def test_hundreds_are_read_and_thousands_are_not(sign: str) -> None:
    assert prose_of_wikitext("It is here.\n\n" + sign * 400).startswith("It is here.")
    with pytest.raises(NotWikitextError):
        prose_of_wikitext("It is here.\n\n" + sign * 2000)


@pytest.mark.parametrize(("opening", "closing", "depth"), [("{{clade|1=", "}}", 40), ("[[File:a.png|a ", " b]]", 10)])
def test_depth_is_bounded(opening: str, closing: str, depth: int) -> None:
    assert prose_of_wikitext(opening * depth + closing * depth + "It is here.") == "It is here."
    depth += 1
    with pytest.raises(NotWikitextError, match=f"{depth} deep"):
        prose_of_wikitext(opening * depth + closing * depth)


def test_braces_of_formulas_do_not_add_up() -> None:
    formula = "<math>{{{a}_b}^c}</math> is <math>x^{a_{b}}</math>. "
    assert prose_of_wikitext(f"It is here. {formula * 200}").startswith("It is here.")


@pytest.mark.parametrize("error", [RecursionError, AttributeError, IndexError])
def test_errors_of_the_parser_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(_: str) -> None:
        raise error

    monkeypatch.setattr(wikitextparser, "parse", fail)
    with pytest.raises(NotWikitextError, match=error.__name__):
        prose_of_wikitext("It is here.")
