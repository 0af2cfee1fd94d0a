"""Shows a token store to a person: samples as training sees them, a summary, and a page of figures.

    python data_prep/inspect.py build/store
    python data_prep/inspect.py build/store --samples 8 --seq-length 128 --split heldout --seed 1 --epoch 0
    python data_prep/inspect.py build/store --report build/store-report.png

A sample is the one that training gets by the same seed, sequence length and epoch.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # A script's own folder is on the path, not the checkout; and a module in it has the name of one of Python's own.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from data_prep.inspection.figure import SUFFIXES, draw_report, require_drawable
from data_prep.inspection.numbers import count_store
from data_prep.inspection.samples import show_samples
from data_prep.inspection.summary import show_summary
from data_prep.inspection.words import Pieces
from data_prep.pipeline.progress import progress
from dsparse.data.loader import PretrainingData
from dsparse.data.manifest import SPLITS, TOKENIZER, Manifest
from dsparse.errors import UserError, exit_on_user_error

_SAMPLES = 4
# The upper bounds keep all that is computed from these numbers within 64 bits.
_RANGES = {"samples": (0, 2**31), "seq_length": (8, 2**20), "seed": (0, 2**63 - 1), "epoch": (0, 2**20)}


def main(argv: Sequence[str] | None = None) -> None:
    """The program; exits with 2 after a user error."""
    parser = argparse.ArgumentParser(
        prog="inspect.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("store", type=Path, metavar="STORE", help="folder made by prepare.py")
    add("--samples", metavar="N", help=f"samples to show (default: {_SAMPLES}; 0 with --report)")
    add("--seq-length", default="128", metavar="T", help="tokens in a sample (default: 128)")
    add("--split", default="train", help=f"{' or '.join(SPLITS)} (default: train)")
    add("--seed", default="42", help="of order, pairs and masks (default: 42, training's own)")
    add("--epoch", default="0", help="from 0; masks and pairs are new in each (default: 0)")
    add("--report", type=Path, metavar="FILE", help=f"also draw a page of figures, {' or '.join(SUFFIXES)}")
    add("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Text of any language, on a terminal of whatever encoding.
        sys.stdout.reconfigure(errors="backslashreplace")
    with exit_on_user_error(arguments.debug):
        if arguments.samples is None:
            arguments.samples = "0" if arguments.report else str(_SAMPLES)
        numbers = {name: _number(name, getattr(arguments, name)) for name in _RANGES}
        if arguments.split not in SPLITS:
            raise UserError(f"Expected --split to be {' or '.join(SPLITS)}. Got {arguments.split!r}.")
        inspect(arguments.store, arguments.split, report=arguments.report, **numbers)


def inspect(
    store: Path, split: str, *, samples: int, seq_length: int, seed: int, epoch: int, report: Path | None
) -> None:
    """Prints samples and a summary of a store, and draws its report if there is to be one.

    Args:
        store: folder.
        split: "train" or "heldout", for samples.
        samples: how many, the first of the epoch.
        seq_length: tokens in a sample.
        seed: of order, pairs and masks.
        epoch: from 0.
        report: file to write.

    Raises:
        UserError: there is no store, it is damaged or too small for a sample, or the report cannot be written.
    """
    if report is not None:
        require_drawable(report)
    console = Console(highlight=False, markup=False, emoji=False)
    manifest = Manifest.read(store)
    manifest.check(store)
    pieces = Pieces.read(store / TOKENIZER)
    if samples:
        data = PretrainingData(store, split=split, seq_length=seq_length, seed=seed)  # type: ignore[arg-type]
        try:
            show_samples(data, pieces, console, epoch=epoch, num_samples=samples)
        except IndexError:
            raise UserError(
                f"Expected token ids below {manifest.vocab_size} in {store}. Got others; data_prep/verify.py says where"
            ) from None
    show_summary(manifest, store, console)
    if report is not None:
        print()
        total = sum(counts.num_tokens for counts in manifest.splits.values())
        with progress("counting tokens", total) as advance:
            numbers = count_store(manifest, store, pieces.vocabulary, advance)
        draw_report(manifest, numbers, pieces, report, title=store.resolve().name)
        print(f"{report} is the report")


def _number(name: str, text: str) -> int:
    low, high = _RANGES[name]
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise UserError(f"Expected --{name.replace('_', '-')} to be a whole number from {low} to {high}. Got {text!r}.")
    return int(text)


if __name__ == "__main__":
    main()
