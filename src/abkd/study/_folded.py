"""A wide table as several narrow ones, so that no column is cut short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_ENDLESS = 100_000  # characters


def folded(make: Callable[[Sequence[int]], Table], columns: int, console: Console) -> list[Table]:
    """Tables that fit the console, each with as many of the columns as it has room for, and one at least.

    Args:
        make: the table of the columns with these numbers; what names its rows is in every one.
        columns: how many there are.
        console: whose width counts.
    """
    from rich.measure import Measurement

    endless = console.options.update(width=_ENDLESS)
    groups: list[list[int]] = [[]]
    for column in range(columns):
        wider = [*groups[-1], column]
        if groups[-1] and Measurement.get(console, endless, make(wider)).maximum > console.width:
            groups.append([column])
        else:
            groups[-1] = wider
    return [make(group) for group in groups]
