"""Output that may lose its reader without ending the run.

Ctrl-C at `deepspeed … | tee log` ends tee first, and a closed terminal takes no more lines. The run has to save all the
same, so what nobody can read any more goes nowhere.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class _MayLoseItsReader:
    """A stream whose writes never fail; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._or_nowhere():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._or_nowhere():
            self._stream.flush()

    @contextlib.contextmanager
    def _or_nowhere(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def output_may_lose_its_reader() -> Iterator[None]:
    """While the block runs, stdout and stderr take what they are given, whether or not anybody reads it."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _MayLoseItsReader(out), _MayLoseItsReader(err)
    try:
        yield
    finally:
        # Before the interpreter does it, which would complain.
        sys.stdout.flush()
        sys.stdout, sys.stderr = out, err
