"""How well and how fast sentence splitters do.

    pip install pysbd syntok blingfire
    git clone https://github.com/UniversalDependencies/UD_English-GUM build/gum
    python benchmarks/sentence_splitters.py --text a_novel.txt --treebank build/gum

Accuracy is over the boundaries inside paragraphs: of treebanks, whose sentences linguists have set, and of a set of our
own, tests/data_prep/text/sentences, which was written to be difficult: abbreviations, numbers, and dialogue in
quotation marks, inside which some splitters split and others do not. Speed is over the paragraphs of any text, one
core. Splitters that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.text.repair import repair
from data_prep.text.sentences import split_sentences

CHECKED = Path(__file__).resolve().parents[1] / "tests/data_prep/text/sentences"
Splitter = Callable[[str], Iterable[str]]
SPOKEN = ("conversation", "court", "podcast", "speech", "vlog")
"""Genres of a treebank that nobody has written down in sentences."""
_MIN_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Score:
    """Boundaries inside paragraphs, and paragraphs without a mistake."""

    num_found: int
    num_true: int
    num_right: int
    num_paragraphs: int
    num_exact: int

    @property
    def precision(self) -> float:
        """The share of the boundaries found that are right."""
        return self.num_right / self.num_found if self.num_found else 1.0

    @property
    def recall(self) -> float:
        """The share of the true boundaries that were found."""
        return self.num_right / self.num_true

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.num_right / (self.num_found + self.num_true)


def read_checked(folder: Path = CHECKED) -> list[list[str]]:
    """The hand-checked paragraphs, each a list of sentences, in the order of the files' names."""
    paragraphs: list[list[str]] = []
    for path in sorted(folder.glob("*.txt")):
        lines = path.read_text(encoding="utf-8").splitlines()
        blocks = "\n".join(line for line in lines if not line.startswith("#")).strip().split("\n\n")
        paragraphs.extend(block.split("\n") for block in blocks)
    return paragraphs


def score(splitter: Splitter, paragraphs: Iterable[list[str]]) -> Score:
    """Compares what a splitter makes of the paragraphs with their sentences."""
    found = true = right = exact = total = 0
    for sentences in paragraphs:
        expected, got = boundaries(sentences), boundaries(splitter(" ".join(sentences)))
        found, true, right = found + len(got), true + len(expected), right + len(got & expected)
        exact, total = exact + (got == expected), total + 1
    return Score(num_found=found, num_true=true, num_right=right, num_paragraphs=total, num_exact=exact)


def boundaries(sentences: Iterable[str]) -> frozenset[int]:
    """Where sentences end but the last, counted in characters that are not white space: splitters differ in spaces."""
    ends, end = [], 0
    for sentence in sentences:
        size = len("".join(sentence.split()))
        if size:
            end += size
            ends.append(end)
    return frozenset(ends[:-1])


def megabytes_per_second(splitter: Splitter, paragraphs: list[str]) -> float:
    """Speed in UTF-8 and processor time, over as many of the paragraphs as are done in some seconds."""
    num_bytes, begin, seconds = 0, time.process_time(), 0.0
    for paragraph in paragraphs:
        for _ in splitter(paragraph):
            pass
        num_bytes += len(paragraph.encode())
        seconds = time.process_time() - begin
        if seconds > _MIN_SECONDS:
            break
    return num_bytes / seconds / 1e6


def installed_splitters() -> dict[str, Splitter]:
    """Ours and those of the libraries that are there."""
    makers: dict[str, Callable[[], Splitter]] = {
        "sentencex, as we use it": lambda: split_sentences,
        "sentencex": _sentencex,
        "syntok": _syntok,
        "pysbd": _pysbd,
        "blingfire": _blingfire,
    }
    splitters = {}
    for name, make in makers.items():
        try:
            splitters[name] = make()
        except ImportError:
            print(f"{name} is not installed", file=sys.stderr)
    return splitters


def _sentencex() -> Splitter:
    library = importlib.import_module("sentencex")
    return lambda paragraph: library.segment("en", paragraph)


def _pysbd() -> Splitter:
    library = importlib.import_module("pysbd")
    return library.Segmenter(language="en", clean=False).segment


def _syntok() -> Splitter:
    library = importlib.import_module("syntok.segmenter")

    def split(paragraph: str) -> Iterable[str]:
        for sentences in library.analyze(paragraph):
            for tokens in sentences:
                yield "".join(token.spacing + token.value for token in tokens)

    return split


def _blingfire() -> Splitter:
    library = importlib.import_module("blingfire")
    return lambda paragraph: library.text_to_sentences(paragraph).split("\n")


def read_treebank(folder: Path) -> list[list[str]]:
    """The paragraphs of a treebank of Universal Dependencies, each a list of sentences."""
    paragraphs: list[list[str]] = []
    is_prose = True
    for path in sorted(folder.glob("*.conllu")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("# meta::genre"):
                is_prose = line.partition("=")[2].strip() not in SPOKEN
            elif line.startswith(("# newdoc", "# newpar")) and not line.startswith("# newpar_block"):
                paragraphs.append([])
            elif line.startswith("# text = ") and is_prose:
                paragraphs[-1].append(" ".join(line.partition("=")[2].split()))
    return [sentences for sentences in paragraphs if sentences]


def main() -> None:
    """Measures and prints tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="plain text in UTF-8, some megabytes, for the speed")
    parser.add_argument("--treebank", type=Path, action="append", default=[], help="folder of *.conllu files")
    arguments = parser.parse_args()
    texts = repair(arguments.text.read_text(encoding="utf-8")).split("\n\n")
    splitters = installed_splitters()
    speeds = {name: megabytes_per_second(splitter, texts) for name, splitter in splitters.items()}
    sets = {f"treebank {folder.name}": read_treebank(folder) for folder in arguments.treebank}
    for title, paragraphs in {**sets, "our own set": read_checked()}.items():
        print(f"{title}: {sum(map(len, paragraphs))} sentences in {len(paragraphs)} paragraphs\n")
        print("| splitter | precision | recall | F1 | exact paragraphs | MB/s |\n|---|---|---|---|---|---|")
        for name, splitter in splitters.items():
            result = score(splitter, paragraphs)
            accuracy = f"{result.precision:.3f} | {result.recall:.3f} | {result.f1:.3f}"
            exact = f"{result.num_exact / result.num_paragraphs:.1%}"
            print(f"| {name} | {accuracy} | {exact} | {speeds[name]:.1f} |", flush=True)
        print()


if __name__ == "__main__":
    main()
