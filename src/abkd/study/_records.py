"""What a comparison is made of: records of runs, the columns to show, and means over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Planned:
    """One run that a comparison asks for; `folder` is its place below the comparison's folder."""

    method: str
    seed: int

    @property
    def folder(self) -> str:
        """`runs/METHOD/seed-SEED`."""
        return f"runs/{self.method}/seed-{self.seed}"


@dataclass(frozen=True)
class Record:
    """What one finished run measured.

    Attributes:
        method, seed: of the run.
        metrics: `metrics[split][which][name]` with split `validation` or `test` and which `best` (the epoch
            chosen on the validation split) or `last`.
        best_epoch: the chosen epoch, from 1.
        history: one dict an epoch with `epoch` and what was measured then.
        seconds: wall time.
        parameters: numbers of weights by model, `student` and `teacher`.
        teacher: the teacher's own test metrics, if there was a teacher.
    """

    method: str
    seed: int
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]
    best_epoch: int
    history: Sequence[Mapping[str, float]]
    seconds: float
    parameters: Mapping[str, int | None] = field(default_factory=dict[str, "int | None"])
    teacher: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Failure:
    """A run that ended in an error, and its message."""

    method: str
    seed: int
    message: str


@dataclass(frozen=True)
class Column:
    """A quantity to show: `metrics[split][which][key]` times `scale`, with `digits` after the point.

    `higher_is_better` says which mean stands out in the table; an `optional` column is left out of the table of a
    comparison in which no run has it.
    """

    title: str
    key: str
    which: str = "best"
    split: str = "test"
    scale: float = 1.0
    digits: int = 2
    higher_is_better: bool = True
    optional: bool = False

    def of(self, record: Record) -> float | None:
        """The value in one record; None where it was not measured."""
        value = record.metrics.get(self.split, {}).get(self.which, {}).get(self.key)
        return None if value is None else value * self.scale


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (n - 1; None for one value) and number of the values."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """The spread of `values`; None if there are none."""
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None
        return cls(statistics.fmean(values), deviation, len(values))

    def text(self, digits: int) -> str:
        """`91.20 ± 0.31`, or the mean alone where there is one value."""
        if self.deviation is None:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One method: its spread in every column of the comparison, in order."""

    method: str
    n: int
    cells: tuple[Spread | None, ...]
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Methods x seeds, as measured.

    Attributes:
        methods: in the order asked for.
        records: finished runs.
        failures: runs that ended in an error.
        columns: what to show; the first is what plots show.
        note: how to read the numbers, said under every table.
    """

    methods: tuple[str, ...]
    records: tuple[Record, ...]
    columns: tuple[Column, ...]
    failures: tuple[Failure, ...] = ()
    note: str = ""

    def of(self, method: str) -> list[Record]:
        """The records of one method, by seed."""
        return sorted((record for record in self.records if record.method == method), key=lambda r: r.seed)

    def rows(self) -> list[Row]:
        """One row a method."""
        rows: list[Row] = []
        for method in self.methods:
            records = self.of(method)
            cells = tuple(
                Spread.of([value for record in records if (value := column.of(record)) is not None])
                for column in self.columns
            )
            rows.append(Row(method, len(records), cells, sum(record.seconds for record in records)))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "methods": list(self.methods),
            "columns": [asdict(column) for column in self.columns],
            "note": self.note,
            "rows": [
                {
                    "method": row.method,
                    "n": row.n,
                    "cells": [None if cell is None else asdict(cell) for cell in row.cells],
                    "seconds": row.seconds,
                }
                for row in self.rows()
            ],
            "records": [asdict(record) for record in self.records],
            "failures": [asdict(failure) for failure in self.failures],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Comparison:
        """What `to_dict` wrote."""
        return cls(
            methods=tuple(value["methods"]),
            records=tuple(Record(**record) for record in value["records"]),
            columns=tuple(Column(**column) for column in value["columns"]),
            failures=tuple(Failure(**failure) for failure in value["failures"]),
            note=value["note"],
        )
