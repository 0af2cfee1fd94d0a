"""What went through a stage, added up by source, and what happens on bad input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from data_prep.pipeline.parts import Report
from dsparse.errors import UserError

_SHOWN = 3


class Tally:
    """Adds up the reports of parts, in their order."""

    def __init__(self, *, on_error: str) -> None:
        """Empty.

        Args:
            on_error: "refuse" raises at the first bad input; "skip" counts it.
        """
        self._on_error = on_error
        self._by_source: dict[str, dict[str, Any]] = {}
        self.num_documents = 0

    def add(self, report: Report) -> None:
        """Counts a part.

        Raises:
            UserError: there was bad input and it is to be refused.
        """
        if report.problems and self._on_error == "refuse":
            refuse(report.problems[0])
        sums = self._by_source.setdefault(
            report.source,
            {"num_documents": 0, "num_sentences": 0, "num_bytes": 0, "left_out": Counter(), "problems": []},
        )
        for name in ("num_documents", "num_sentences", "num_bytes"):
            sums[name] += getattr(report, name)
        sums["left_out"].update(report.left_out)
        room = _SHOWN - len(sums["problems"])
        sums["problems"] += [list(problem) for problem in report.problems[: max(room, 0)]]
        self.num_documents += report.num_documents

    def summary(self) -> dict[str, Any]:
        """Plain JSON: counts by source, and a line for people under "said"."""
        sources = {
            label: {**sums, "left_out": dict(sorted(sums["left_out"].items()))}
            for label, sums in self._by_source.items()
        }
        left_out: Counter[str] = Counter()
        for sums in sources.values():
            left_out.update(sums["left_out"])
        said = f"{self.num_documents:,} documents"
        if left_out:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
            said += f", {sum(left_out.values()):,} left out ({reasons})"
        return {"sources": sources, "said": said}


def tallied(reports: Iterable[Report], *, on_error: str) -> dict[str, Any]:
    """The summary of all reports of a stage."""
    tally = Tally(on_error=on_error)
    for report in reports:
        tally.add(report)
    return tally.summary()


def refuse(problem: Iterable[str]) -> None:
    """Raises the UserError that says where bad input is and what to do about it."""
    reason, place, advice = problem
    raise UserError(
        f"Expected readable input in {place}. Got: {reason}; {advice}, or leave it out with --on-error skip."
    )
