"""Errors a user can mend, and the one way entry points show them: a single line, exit code 2, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MAX_LINE_LENGTH = 1000


class UserError(ValueError):
    """Bad input: the message says what is wrong, where, and what to do, in one line."""


class CheckpointError(UserError):
    """A checkpoint is not whole, not what it should be, or not to be had; the message names the file."""


@contextmanager
def exit_on_user_error(debug: bool = False) -> Iterator[None]:
    """Turns a `UserError` into one line on stderr and exit code 2, and so an `OSError`: a full disk, no permission.

    With `debug` the error goes through with its traceback.
    """
    try:
        yield
    except (UserError, OSError) as error:
        if debug:
            raise
        message = str(error)
        if isinstance(error, OSError):
            where = f" at {error.filename}" if error.filename else ""
            message = f"Expected files to be read and written. Got: {error.strerror or error}{where}."
        # One line, whatever the message was built from.
        print(f"error: {_shortened(' '.join(message.split()))}", file=sys.stderr, flush=True)
        sys.exit(2)


def _shortened(line: str) -> str:
    """A line that quotes a whole file, or a word without end, with its middle left out."""
    if len(line) <= _MAX_LINE_LENGTH:
        return line
    half = _MAX_LINE_LENGTH // 2
    return f"{line[:half]} [… {len(line) - 2 * half} characters …] {line[-half:]}"


class SparsityError(RuntimeError):
    """Training cannot go on without breaking a promise. Raised on every rank at once, so none waits for another."""


class PatternDisagreementError(SparsityError):
    """Ranks hold different patterns; the message names the weights and the ranks."""


class InvariantError(SparsityError):
    """Something is not 0 outside the pattern; the message names the weight and the state."""


class NonFiniteWeightError(SparsityError):
    """A pattern update met weights that are NaN or infinite; the message names the weights."""
