"""One progress bar for all runs of a plan."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from abkd.engine import Report


class PlanBar(AbstractContextManager["PlanBar"]):
    """A bar over `total` runs, entered as a context.

    Args:
        title: stands before the bar.
        total: how many runs there are.
    """

    def __init__(self, title: str, total: int) -> None:
        from abkd.engine import ProgressBar

        self._bar = ProgressBar(title)
        self._total = total
        self._begun = 0

    def __enter__(self) -> PlanBar:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def next(self, label: str) -> Report:
        """Where the next run reports to; what came before it counts as done."""
        before = self._begun
        self._begun += 1
        self._bar(before / self._total, label)
        return lambda share, text: self._bar((before + share) / self._total, f"{label}: {text}")
