"""Splits English prose into sentences by rule.

A sentence ends with . ! ? or … (and what closes quotations, brackets and citations behind it) when a space and
something that can begin a sentence follow, inside quotations as outside. A full stop behind an abbreviation belongs to
the abbreviation; where it may do both ("in the U.S. The army ..."), the next word decides: it begins a sentence if it
is one that seldom has a capital elsewhere. benchmarks/sentence_splitters.py compares this with libraries.
"""

from __future__ import annotations

import re

MAX_CHARS = 1000
"""A longer sentence is cut between two words: it is a list or a table that has lost its line breaks."""

# The full stop never ends a sentence: a name or a clause follows.
_BOUND_WORDS = """
    Adm Capt Cdr Cmdr Col Cpl Dr Drs Gen Gov Hon Lieut Lt Maj Messrs Mlle Mme Mmes Mr Mrs Ms Mx Pres Prof Profs Pvt Rep
    Reps Rev Sen Sens Sgt Supt
    cf e.g eg i.e ie incl viz vs w.r.t P.S N.B
"""
# It ends one unless a number follows: most of these are words, too.
_NUMBERED_WORDS = """
    App Art Cap Ed Ex Fig Mar No Op Par Pt Ref Tab app art cap ed ex fig no op par ref tab B.C B.C.E
"""
# It may be both. So may that of an initial, and of letters with full stops between them.
_EITHER_WORDS = """
    Bk Bros Ch Chap Chaps Eds Eq Eqs Figs Nos Nr Pl Refs Sec Secs Sect Ver Vol Vols
    al approx c ca ch chap chaps eds eq eqs esp est et ext f ff figs fl l ll max min n nn nos nr p pl pp resp sec secs
    sect v ver vol vols vv
    Jan Feb Apr Jun Jul Aug Sep Sept Oct Nov Dec
    Ave Blvd Ft Hwy Mt Pkwy Rd Sq St Ste ave blvd rd st
    Assn Assoc Bro Co Corp Dept Esq Inc Intl Jr Ltd Mfg Natl Plc Sr Univ co corp dept inc ltd
    Ala Ariz Ark Calif Colo Conn Del Fla Ga Ill Ind Kan Ky La Md Mass Mich Minn Miss Mo Mont Neb Nev Okla Ont Ore Pa
    Penn Que Tenn Tex Va Vt Wash Wis Wyo
    Fr Ger Gk Gr Heb Lat Skr Ph.D
    cu ft hr hrs lb lbs oz sq yd yds
"""
# Words that have a capital because they begin a sentence, and seldom because they are names.
_BEGINNER_WORDS = """
    A About According After All Also Although Among An And Another Any Are As At Because Before Being Besides Between
    Both But By Can Could Did Do Does During Each Earlier Either Even Every Everyone Everything Few Finally First For
    From Further Furthermore Had Has Have Having He Her Here Hers His How However I If In Indeed Instead Is It Its Later
    Like Many May Maybe Meanwhile More Moreover Most Much My Neither Nevertheless No Nobody None Nor Not Nothing Now Of
    Often On Once One Only Or Other Others Our Out Over People Perhaps Please Several Shall She Should Similarly Since
    So Some Someone Something Sometimes Soon Still Such Than That The Their Them Then There Therefore These They This
    Those Though Three Through Thus To Today Together Too Two Under Unlike Until Upon Was We Were What When Where
    Whereas Whether Which While Who Whose Why Will With Within Without Would Yes Yet You Your
"""
_BOUND, _NUMBERED = frozenset(_BOUND_WORDS.split()), frozenset(_NUMBERED_WORDS.split())
_EITHER, _BEGINNERS = frozenset(_EITHER_WORDS.split()), frozenset(_BEGINNER_WORDS.split())
_ABBREVIATIONS = _BOUND | _NUMBERED | _EITHER
_SAYS = (
    "added|agreed|announced|answered|asked|began|called|cried|continued|declared|demanded|echoed|exclaimed|explained"
    "|laughed|murmured|muttered|observed|remarked|repeated|replied|returned|roared|said|screamed|shouted|sighed|sobbed"
    "|thought|whispered|wrote|yelled"
)
_CLOSING = r"""["'”’»)\]`*_]*(?:\[[\w ]{1,9}\])*"""
_OPENING = r"""["'“‘«(\[`*_¿¡]*"""
# What follows is a digit, or a letter but none in lower case.
_BOUNDARY = re.compile(rf"""[.!?…]({_CLOSING}) (?={_OPENING}[^\W_a-zß-öø-ÿ])""")
_BEFORE_WORD = "\"'“‘«([`*_"
_NEXT_WORD = re.compile(rf"""{_OPENING}(\w+)(\.?)""")
_NUMBER = re.compile(r"[(\[]?(?:\d|[ivxlcIVXLC]+\b)")
_NUMBER_OF_ITEM = re.compile(r"\d{1,3}|[A-Za-z]|[ivx]{1,4}")
_MAX_ITEM = 4
_LETTERS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_REPORT = re.compile(rf"([A-Z][\w.'’-]*) (?:[A-Z][\w.'’-]* ){{,2}}(?:{_SAYS})\b")


def split_sentences(paragraph: str) -> list[str]:
    """Splits a paragraph whose white space is single spaces.

    Returns:
        Sentences in order, none longer than MAX_CHARS; joined by spaces they are the paragraph again, unless it has a
        word longer than that, which is cut.
    """
    sentences, begin = [], 0
    for match in _BOUNDARY.finditer(paragraph):
        if _is_end(paragraph, begin, match):
            sentences.append(paragraph[begin : match.end(1)])
            begin = match.end()
    if begin < len(paragraph):
        sentences.append(paragraph[begin:])
    if len(paragraph) <= MAX_CHARS:
        return sentences
    return [piece for sentence in sentences for piece in _cut(sentence)]


def _is_end(text: str, begin: int, match: re.Match[str]) -> bool:
    """Whether a sentence that began at `begin` ends with the match."""
    stop, closed = match.start(), match.end(1)
    if text[stop] != ".":
        return closed == stop + 1 or not _is_report(text, match.end())
    if closed > stop + 1:
        return True
    first = max(begin, text.rfind(" ", begin, stop) + 1)
    word = text[first:stop]
    if len(word) > _MAX_ITEM and word.isalpha() and word not in _ABBREVIATIONS:
        return True  # what follows would find so, too, but later
    word = word.lstrip(_BEFORE_WORD)
    # "smiles--Mr." and "Lieut.-Col." are the abbreviations at their ends.
    word = word[max(word.rfind("-"), word.rfind("—")) + 1 :]
    if not word:
        # Three full stops, spaced, leave something out; a fourth ends the sentence.
        return not text.endswith(". . .", begin, stop + 1) or text.endswith(". . . .", begin, stop + 1)
    if word in _BOUND or (first == begin and _NUMBER_OF_ITEM.fullmatch(word)):
        return False
    if word in _NUMBERED:
        return not _NUMBER.match(text, match.end())
    if word == "I" and text[text.rfind(" ", begin, first - 1) + 1 : first].islower():
        return True  # "so am I.", unlike "Albert I. Jones"
    if word in _EITHER or ((word[-1].isupper() or "." in word) and _LETTERS.fullmatch(word)):
        following = _NEXT_WORD.match(text, match.end())
        return following is not None and following[1] in _BEGINNERS and not following[2]
    return True


def _is_report(text: str, begin: int) -> bool:
    """Whether words like "Emma cried" stand there: they go on with the sentence of the quotation before them."""
    match = _REPORT.match(text, begin)
    return match is not None and (match[1] == "I" or match[1] not in _BEGINNERS)


def _cut(sentence: str) -> list[str]:
    """The sentence in pieces of at most MAX_CHARS, cut between words where there are any."""
    pieces, begin = [], 0
    while len(sentence) - begin > MAX_CHARS:
        space = sentence.rfind(" ", begin + 1, begin + MAX_CHARS + 1)
        pieces.append(sentence[begin : space if space > 0 else begin + MAX_CHARS])
        begin = space + 1 if space > 0 else begin + MAX_CHARS
    return [*pieces, sentence[begin:]]
