"""A comparison as two pictures: every seed's result as a point, and the learning curves."""

from __future__ import annotations

import io
import os
import statistics
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from abkd.errors import MissingPackageError
from abkd.storage import atomic_write_bytes
from abkd.study._records import Comparison, Record, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#999933",
    "#882255",
    "#44aa99",
    "#777777",
)

_FEW = 12  # points that are drawn as such


def write_dots(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """A PNG of the first column: a point a seed, the mean as a line and one standard deviation as a bar.

    The axis does not start at zero, so lengths from the edge mean nothing and none are drawn.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    column = comparison.columns[0]
    methods = [method for method in comparison.methods if comparison.of(method)]
    figure = _figure(7.2, 1.2 + 0.38 * len(methods))
    axes = figure.subplots()
    axes.use_sticky_edges = False
    for place, method in enumerate(methods):
        values = [value for record in comparison.of(method) if (value := column.of(record)) is not None]
        spread = Spread.of(values)
        if spread is None:
            continue
        colour = _COLOURS[place % len(_COLOURS)]
        half = spread.deviation or 0.0
        axes.barh(place, 2 * half, left=spread.mean - half, height=0.5, color=colour, alpha=0.3)
        axes.plot([spread.mean] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2.5)
        axes.plot(values, [place] * len(values), "o", color="black", markersize=3.5)
    start = _start(comparison)
    if start is not None:
        axes.axvline(start, color="#777777", linestyle=":", linewidth=1.5)
    dotted = "" if start is None else "; dotted: before training"
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xlabel(f"{column.title} (point: a seed; line: mean; band: one standard deviation{dotted})", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    _save(figure, path)


def _start(comparison: Comparison) -> float | None:
    """The mean of the first column before any training, where the comparison has it."""
    key = comparison.columns[0].key
    column = next((one for one in comparison.columns if one.which == "start" and one.key == key), None)
    if column is None:
        return None
    records = [record for method in comparison.methods for record in comparison.of(method)]
    values = [value for record in records if (value := column.of(record)) is not None]
    return statistics.fmean(values) if values else None


def write_curves(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """A PNG of the learning curves: training loss and validation score by epoch, the mean over seeds.

    A curve of few points has markers; a panel without any point is left out, and without panels there is no picture.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    score = f"validation_{comparison.columns[0].key}"
    titles = {"loss": "training loss (each method's own scale)", score: score.replace("_", " ")}
    panels = {key: title for key, title in titles.items() if any(_curves(comparison, key).values())}
    if not panels:
        Path(path).unlink(missing_ok=True)
        return
    figure = _figure(5.25 * len(panels), 4.2)
    for axes, (key, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _draw(axes, comparison, key)
        _label(axes, title)
    figure.axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def _draw(axes: Axes, comparison: Comparison, key: str) -> None:
    """One curve a method."""
    curves = _curves(comparison, key)
    for place, method in enumerate(comparison.methods):
        points = curves.get(method)
        if not points:
            continue
        style = "-" if place < len(_COLOURS) else "--"
        marker = "o" if len(points) <= _FEW else None
        colour = _COLOURS[place % len(_COLOURS)]
        axes.plot(*zip(*points, strict=True), style, color=colour, label=method, linewidth=1.6, marker=marker)
    if key == "loss" and all(value > 0 for points in curves.values() for _, value in points):
        axes.set_yscale("log")


def _curves(comparison: Comparison, key: str) -> dict[str, list[tuple[float, float]]]:
    """Epoch and mean over seeds, by method."""
    return {
        method: list(zip(*_mean_curve(records, key), strict=True))
        for method in comparison.methods
        if (records := comparison.of(method))
    }


def _mean_curve(records: list[Record], key: str) -> tuple[list[float], list[float]]:
    """The mean over records of `key` at each epoch where it was measured."""
    values: defaultdict[float, list[float]] = defaultdict(list)
    for record in records:
        for entry in record.history:
            if key in entry:
                values[entry["epoch"]].append(entry[key])
    epochs = sorted(values)
    return epochs, [statistics.fmean(values[epoch]) for epoch in epochs]


def _label(axes: Axes, title: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)


def _figure(width: float, height: float) -> Figure:
    """A figure of this many inches that no window system and no global state knows of."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError('pictures need matplotlib: pip install "abkd[study]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    atomic_write_bytes(Path(path), buffer.getvalue())
