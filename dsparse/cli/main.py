"""`dsparse checkpoint inspect | verify | convert`, `dsparse estimate`: tools for a shell, without a process group."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dsparse.checkpoint import folder
from dsparse.checkpoint.manifest import MANIFEST, Manifest
from dsparse.checkpoint.summary import as_text, summarize
from dsparse.cli import estimate
from dsparse.errors import CheckpointError, exit_on_user_error

_PATH_HELP = "a checkpoint (runs/a/checkpoints/step20), or a folder of them (runs/a/checkpoints) or a run (runs/a)"
_CHECKPOINTS = "checkpoints"


def main(argv: Sequence[str] | None = None) -> None:
    """The program; exits with 2 after a user error and with 1 where `verify` found damage."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not arguments.takes_more:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    with exit_on_user_error(arguments.debug or "--debug" in rest):
        sys.exit(arguments.run(arguments))


def inspect(arguments: argparse.Namespace) -> int:
    """Prints what a checkpoint is of."""
    summary = summarize(one_checkpoint(arguments.path))
    print(json.dumps(summary, indent=2) if arguments.json else as_text(summary))
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Compares every byte of checkpoints with their manifests."""
    num_damaged = 0
    for path in arguments.paths:
        for place in all_checkpoints(path):
            try:
                problems = Manifest.read(place).problems(place)
            except CheckpointError as error:
                problems = [str(error)]
            if problems and place.name not in {path.name for path in place.parent.iterdir()}:
                print(f"removed  {place}", flush=True)  # meanwhile, by a run that keeps the last few
                continue
            num_damaged += bool(problems)
            print(f"{'DAMAGED' if problems else 'whole':<8} {place}", flush=True)
            for problem in problems:
                print(f"         {problem}")
    return 1 if num_damaged else 0


def convert(arguments: argparse.Namespace) -> int:
    """Writes a checkpoint that belongs to no number of ranks and no ZeRO stage."""
    from dsparse.engine.convert import convert as convert_one

    def follow(done: int, of: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {of} weights", end="\n" if done == of else "", file=sys.stderr, flush=True)

    made = convert_one(one_checkpoint(arguments.path), arguments.out, follow=follow)
    print(f"{made} is written: resume it with --checkpoint.resume {made}")
    return 0


def one_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the one that `latest` names.

    Raises:
        CheckpointError: it means none.
    """
    if (path / MANIFEST).is_file():
        return path
    for root in (path, path / _CHECKPOINTS):
        tag = folder.latest_tag(root)
        if tag is not None:
            return root / folder.locate(root, tag)
    raise CheckpointError(f"Expected {_PATH_HELP}. Got {path}, where there is none.")


def all_checkpoints(path: Path) -> Iterator[Path]:
    """Every checkpoint that a path means, the one with the most steps last.

    Raises:
        CheckpointError: it means none.
    """
    if (path / MANIFEST).is_file():
        yield path
        return
    for root in (path, path / _CHECKPOINTS):
        named = sorted(
            p for p in root.glob("*") if p.is_dir() and not p.name.startswith(".") and p.name != _CHECKPOINTS
        )
        if folder.tags(root) and named:
            order = {tag: place for place, tag in enumerate(reversed(folder.tags(root)))}
            yield from sorted(named, key=lambda place: (order.get(place.name, -1), place.name))
            return
    if path.is_dir() and any(path.glob("*.pt")):
        yield path  # a checkpoint whose manifest is gone
        return
    raise CheckpointError(f"Expected {_PATH_HELP}. Got {path}, where there is none.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dsparse", description="Tools beside launch/pretrain.py.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    parser.set_defaults(takes_more=False)
    groups = parser.add_subparsers(title="commands", required=True)
    group = groups.add_parser("checkpoint", help="look at checkpoints").add_subparsers(title="commands", required=True)

    one = group.add_parser("inspect", help="steps, patterns, data position, versions")
    one.add_argument("path", type=Path, help=_PATH_HELP)
    one.add_argument("--json", action="store_true", help="print JSON")
    one.set_defaults(run=inspect)

    one = group.add_parser("verify", help="compare every byte with what was written")
    one.add_argument("paths", type=Path, nargs="+", metavar="path", help=_PATH_HELP)
    one.set_defaults(run=verify)

    one = group.add_parser("convert", help="write one that belongs to no number of ranks and no ZeRO stage")
    one.add_argument("path", type=Path, help=_PATH_HELP)
    one.add_argument("--out", type=Path, required=True, help="folder for the converted checkpoint")
    one.set_defaults(run=convert)

    one = groups.add_parser(
        "estimate",
        help="what a run would read and compute",
        usage="dsparse estimate [--ranks N] [any flags of launch/pretrain.py]",
        description="Prints tokens, samples, epochs and encoder FLOPs of a run, from its configuration and its store.",
        epilog="example: dsparse estimate --config launch/presets/base.yaml --data.store build/store --ranks 8",
        allow_abbrev=False,
    )
    estimate.add_arguments(one)
    one.set_defaults(run=estimate.run, takes_more=True)
    return parser


if __name__ == "__main__":
    main()
