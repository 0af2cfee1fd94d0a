"""Asked to stop, a run finishes its step, saves and ends with 0; asked again, a process ends at once.

SIGTERM, SIGINT, SIGUSR1 and SIGHUP ask, and so does the end of the launcher, which would leave its ranks alone. One
rank that was asked is enough: the wish travels in a sum that every step makes anyway (`StopRequest.share`), so all
ranks read the same answer at the same step.

Python runs a handler in the main thread only, and not while that waits for another rank. So a thread reads the signals'
numbers from a pipe and sees to what must not wait.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from dsparse.engine.deferred import Deferred
from dsparse.train.launcher import find_launchers, is_gone

if TYPE_CHECKING:
    from torch import Tensor

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
SAME_REQUEST_S = 2.0
"""Signals so soon after the first are the same wish: a launcher passes on what a terminal has sent already."""

_SECONDS_TO_UNWIND = 5.0
_ROUND_S = 1.0


class StopRequest:
    """Whether this rank was asked to stop, and whether all ranks know."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether this rank was asked."""
        self._shared: Deferred | None = None

    def share(self, num_asked: Tensor) -> None:
        """Takes the number of ranks asked, [1] on the device, summed over ranks at the start of a step."""
        self._shared = Deferred(num_asked)

    def is_agreed(self) -> bool:
        """Whether any rank had been asked when the step began: the same answer on every rank."""
        return self._shared is not None and self._shared.read()[0] > 0


class StopSignals:
    """Handles signals while a run lives; use as a context manager, in the main thread.

    Before `begin_training` a signal ends the process with 128 + its number, as a shell expects; from then on it sets
    `request.wanted`. Signals that were ignored at the start (nohup) stay so.
    """

    def __init__(self, farewell: Callable[[], str | None]) -> None:
        """Nothing is installed before the context is entered.

        Args:
            farewell: what to say when a signal ends the process before training; None says nothing.
        """
        self.request = StopRequest()
        self._farewell = farewell
        self._is_training = self._has_saved = False
        self._first_s: float | None = None
        self._unwinds = False
        self._ends_at_s, self._code = float("inf"), 0
        self._old_handlers: dict[int, Any] = {}
        self._closed = threading.Event()

    def __enter__(self) -> StopSignals:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for signum in STOP_SIGNALS:
            if signal.getsignal(signum) != signal.SIG_IGN:
                self._old_handlers[signum] = signal.signal(signum, self._handle)
        self._thread = threading.Thread(target=self._watch, name="dsparse-stop", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """What was asked for is being done: no later signal is to spoil the exit code."""
        # The thread may not have read of a signal yet that the main thread is on its way out for.
        was_asked = self._first_s is not None or self._unwinds or self.request.wanted
        for signum, old in self._old_handlers.items():
            signal.signal(signum, signal.SIG_IGN if was_asked else old)
        signal.set_wakeup_fd(self._old_wakeup)
        self._closed.set()
        os.close(self._writer)  # which wakes the thread
        self._thread.join(_SECONDS_TO_UNWIND)
        os.close(self._reader)

    def begin_training(self) -> None:
        """From here on there is something to save."""
        self._is_training = True

    def saved(self) -> None:
        """What was asked for is done. A launcher may pass the signal on to one rank after the other only now."""
        self._has_saved = True

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        """Runs in the main thread, between two of its instructions."""
        if self._is_training:
            self.request.wanted = True
        elif not self._unwinds:
            self._unwinds = True
            self._say_farewell()
            raise SystemExit(128 + signum)

    def _watch(self) -> None:
        launchers = find_launchers()
        while not self._closed.is_set():
            ready, _, _ = select.select([self._reader], [], [], _ROUND_S)
            for signum in os.read(self._reader, 64) if ready else b"":
                if signum in self._old_handlers:
                    self._meet(signum)
            if time.monotonic() > self._ends_at_s and not (self._is_training or self._closed.is_set()):
                if not self._unwinds:
                    self._say_farewell()
                os._exit(self._code)
            if launchers and any(is_gone(one) for one in launchers):
                launchers = []
                os.kill(os.getpid(), signal.SIGTERM)

    def _say_farewell(self) -> None:
        line = self._farewell()
        if line is not None:
            with contextlib.suppress(OSError):
                os.write(2, f"{line}\n".encode())  # sys.stderr may be in the middle of a write

    def _meet(self, signum: int) -> None:
        now_s = time.monotonic()
        if self._first_s is None:
            self._first_s = now_s
            if not self._is_training:
                # The main thread may wait for a rank that never comes, or hang on its way out.
                self._code, self._ends_at_s = 128 + signum, now_s + _SECONDS_TO_UNWIND
        elif now_s - self._first_s > SAME_REQUEST_S and not self._has_saved:
            os._exit(128 + signum)
