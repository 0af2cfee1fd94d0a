"""A stage as a command of its own."""

from __future__ import annotations

import argparse
import errno
import fcntl
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from data_prep.pipeline.inputs import hash_inputs
from data_prep.pipeline.stage import Context, Stage, run_stage
from data_prep.pipeline.workers import interrupt
from data_prep.recipe import Recipe, add_arguments, recipe_of
from data_prep.sources.parse import parse_source
from dsparse.errors import UserError, exit_on_user_error


def run_as_command(
    run: Callable[[Context], object], name: str, description: str | None, argv: Sequence[str] | None = None
) -> None:
    """A command that takes a recipe; exits with 2 after a user error and with 130 when interrupted.

    Args:
        run: what it does.
        name: of the command, without ".py".
        description: for --help.
        argv: arguments; None takes the process's, whose SIGTERM then does as Ctrl-C.
    """
    if argv is None:
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, interrupt)
    parser = argparse.ArgumentParser(
        prog=f"{name}.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    if argv is None and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of any language, on a terminal of whatever encoding
    with exit_on_user_error(arguments.debug), exit_when_interrupted():
        recipe = recipe_of(arguments)
        with when_full(recipe), opened(recipe) as context:
            run(context)


def run_stage_as_command(stage: Stage, description: str | None) -> None:
    """A command that runs one stage, or what is missing of it."""
    run_as_command(partial(run_stage, stage), stage.name, description)


@contextmanager
def opened(recipe: Recipe) -> Iterator[Context]:
    """What stages work on; no other run can work in the same folder meanwhile.

    Raises:
        UserError: a source is not there, or another run is at work.
    """
    sources = [parse_source(spec.source, field=spec.field or recipe.field) for spec in recipe.sources]
    _require_apart(recipe)
    try:
        recipe.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Expected to be able to make the folder {recipe.work}. Got: {error.strerror}.") from None
    lock = os.open(recipe.work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Expected to be alone in {recipe.work}. Got another run at work there; wait for it, or give another "
                "--work."
            ) from None
        inputs = hash_inputs(sources, recipe.work, num_workers=recipe.workers)
        yield Context(recipe=recipe, sources=sources, inputs=inputs)
    finally:
        os.close(lock)


def _require_apart(recipe: Recipe) -> None:
    """Raises UserError if what is made would be read as a source the next time."""
    for spec in recipe.sources:
        kind, _, place = spec.source.partition(":")
        for made in (recipe.out, recipe.work) if kind in ("jsonl", "parquet", "datasets") and place else ():
            if made.resolve().is_relative_to(Path(place).resolve()):
                raise UserError(
                    f"Expected --out and --work outside of the source {spec.source}, which would else read them. Got "
                    f"{made}; give another folder."
                )


@contextmanager
def when_full(recipe: Recipe) -> Iterator[None]:
    """Turns a full disk into a UserError that says which, and how to go on."""
    try:
        yield
    except OSError as error:
        # Arrow puts the system's error into its own words.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and "No space left" not in str(error):
            raise
        raise UserError(
            f"Expected room on the disk of {recipe.work} and {recipe.out}. Got: No space left on device; make room, "
            "and the same command goes on where this one was."
        ) from None


@contextmanager
def exit_when_interrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM end with one line and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one was", file=sys.stderr)
        sys.exit(130)
