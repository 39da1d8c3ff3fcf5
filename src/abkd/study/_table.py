"""A comparison as a table: in the terminal, as CSV and as Markdown; and all its reports in one call."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abkd.errors import MissingPackageError
from abkd.storage import atomic_write_json, atomic_write_text
from abkd.study._folded import folded
from abkd.study._plots import write_curves, write_dots
from abkd.study._records import Comparison, Row

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

RESULTS = "results.json"


def rich_table(comparison: Comparison, title: str | None = None, *, only: Sequence[int] | None = None) -> Table:
    """The comparison as a table for the terminal; the best mean of the first column stands out.

    Args:
        comparison: what is shown.
        title: above it.
        only: the numbers of the columns that are shown; all if None. The note is under the last column's table.
    """
    from rich import box
    from rich.table import Table

    chosen = range(len(comparison.columns)) if only is None else only
    last = len(comparison.columns) - 1
    table = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=comparison.note or None if last in chosen or last < 0 else None,
        caption_justify="left",
    )
    table.add_column("method", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for column in chosen:
        table.add_column(comparison.columns[column].title, justify="right", no_wrap=True)
    rows = comparison.rows()
    best = best_method(comparison)
    for row in rows:
        cells = _cells(comparison, row)
        style = "bold" if row.method == best else None
        table.add_row(row.method, str(row.n), *(cells[column] for column in chosen), style=style)
    return table


def print_table(comparison: Comparison, console: Console) -> None:
    """The comparison on a console, as several tables where one would be too wide."""
    for table in folded(lambda only: rich_table(comparison, only=only), len(comparison.columns), console):
        console.print(table)


def to_csv(comparison: Comparison) -> str:
    """CSV with one line a method: for every column its mean, standard deviation and number of seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["method"]
    for column in comparison.columns:
        header += [f"{column.title} mean", f"{column.title} sd", f"{column.title} n"]
    writer.writerow([*header, "seconds"])
    for row in comparison.rows():
        line: list[object] = [row.method]
        for cell in row.cells:
            line += ["", "", 0] if cell is None else [cell.mean, _or_empty(cell.deviation), cell.n]
        writer.writerow([*line, round(row.seconds, 3)])
    return out.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """A Markdown table, with the note under it."""
    titles = ["method", "n", *(column.title for column in comparison.columns)]
    lines = [_line(titles), _line(["---", *["---:"] * (len(titles) - 1)])]
    rows = comparison.rows()
    best = best_method(comparison)
    for row in rows:
        name = f"**{row.method}**" if row.method == best else row.method
        lines.append(_line([name, str(row.n), *_cells(comparison, row)]))
    for failure in comparison.failures:
        lines += ["", f"{failure.method}, seed {failure.seed}, failed: {failure.message}"]
    if comparison.note:
        lines += ["", comparison.note]
    return "\n".join(lines) + "\n"


def write_reports(comparison: Comparison, folder: str | os.PathLike[str]) -> None:
    """Leave results.json, table.csv, table.md, table.png and curves.png in `folder`.

    Without matplotlib there are no pictures, which is said on standard error.
    """
    place = Path(folder)
    atomic_write_json(place / RESULTS, comparison.to_dict())
    atomic_write_text(place / "table.csv", to_csv(comparison))
    atomic_write_text(place / "table.md", to_markdown(comparison))
    if comparison.records:
        try:
            write_dots(comparison, place / "table.png")
            write_curves(comparison, place / "curves.png")
        except MissingPackageError as error:
            print(f"abkd: {error}", file=sys.stderr, flush=True)


def best_method(comparison: Comparison) -> str | None:
    """The method with the best mean in the first column; None without any value."""
    known = {row.method: row.cells[0].mean for row in comparison.rows() if row.cells and row.cells[0] is not None}
    if not known:
        return None
    best = max if comparison.columns[0].higher_is_better else min
    return best(known, key=lambda method: known[method])


def _cells(comparison: Comparison, row: Row) -> list[str]:
    pairs = zip(comparison.columns, row.cells, strict=True)
    return ["-" if cell is None else cell.text(column.digits) for column, cell in pairs]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value
