"""What a person sees while it trains: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from dsparse.train.evaluate import HeldOutLosses


class Progress:
    """Follows a run from `first_step` to `last_step`; use as a context manager."""

    def __init__(self, *, speaks: bool, first_step: int, last_step: int, is_live: bool | None = None) -> None:
        """Nothing is drawn until the context is entered.

        Args:
            speaks: whether this rank says anything.
            first_step: optimizer steps already done.
            last_step: where this session ends.
            is_live: draw a bar; None asks whether stdout is a terminal.
        """
        self._speaks = speaks
        self._is_live = sys.stdout.isatty() if is_live is None else is_live
        self._first, self._last = first_step, last_step
        self._t0_s = time.perf_counter()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._t0_s = time.perf_counter()
        if self._speaks and self._is_live:
            self._bar = _bar()
            self._task = self._bar.add_task("train", total=self._last, completed=self._first, text="starting")
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int) -> None:
        """A step is done: moves the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def train(self, step: int, row: Mapping[str, Any]) -> None:
        """A row of metrics: what is worth seeing of it."""
        text = _text_of(row)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text)
        else:
            self.say(f"step {step}/{self._last}  {text}  {self._remaining(step)} left")

    def heldout(self, step: int, losses: HeldOutLosses) -> None:
        """An evaluation."""
        self.say(
            f"step {step}/{self._last}  held-out MLM {losses.mlm_loss:.4f} ({losses.mlm_accuracy:.1%} right)  "
            f"NSP {losses.nsp_loss:.4f} ({losses.nsp_accuracy:.1%} right)"
        )

    def say(self, line: str) -> None:
        """A line of its own, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        elif self._speaks:
            print(line, flush=True)

    def _remaining(self, step: int) -> str:
        done = max(step - self._first, 1)
        return _clock((time.perf_counter() - self._t0_s) / done * (self._last - step))


def _bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    # On a narrow terminal the text is what gives way, never the step or the time.
    text = TextColumn("{task.fields[text]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    return RichProgress(
        MofNCompleteColumn(), BarColumn(bar_width=10), TimeRemainingColumn(), text, refresh_per_second=4, expand=True
    )


def _text_of(row: Mapping[str, Any]) -> str:
    parts = [
        f"loss {_number(row['loss'])}",
        f"MLM {_number(row['mlm_loss'])}",
        f"lr {row['learning_rate']:.2e}",
        f"{row['tokens_per_s']:,.0f} tokens/s",
    ]
    if row.get("sparsity") is not None:
        parts.append(f"sparsity {row['sparsity']:.1%}")
        parts.append(f"DOF {row['dof_covered']:.1%}")
        parts.append(f"{row['num_updates']} updates")
    return "  ".join(parts)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
