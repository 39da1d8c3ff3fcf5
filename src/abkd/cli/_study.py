"""Running a recipe's plan and showing what comes out: shared by train, compare and demo."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abkd.cli._console import NOTHING_BEGUN, err, out, plain
from abkd.storage import atomic_write_text

if TYPE_CHECKING:
    from abkd.config import Recipe
    from abkd.engine import RunResult
    from abkd.study import Comparison, Failure, Planned, Record

RECIPE = "recipe.yaml"
WRITTEN = ("table.csv", "table.md", "table.png", "curves.png", "results.json", RECIPE, "environment.json")


def run_and_show(
    recipe: Recipe,
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    output: Path | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Run the plan, print the table, say where the files are; exit code 1 if a run failed."""
    from abkd.engine import is_main, leave
    from abkd.study._folder import begun, opened, set_aside

    folder = output if output is not None else Path(recipe.output)
    _say_what(recipe, methods, seeds, folder)
    teller = _Teller(recipe, len(methods) * len(seeds))
    # A recipe that an earlier study left in the folder is written again below, and so may lie there.
    inputs = [] if Path(recipe.source).resolve() == (folder / RECIPE).resolve() else [recipe.source]
    plan = recipe.plan(methods, seeds)
    started = False
    try:
        with opened(folder, plan, resume=resume, overwrite=overwrite, inputs=inputs):
            try:
                if is_main():
                    atomic_write_text(folder / RECIPE, recipe.to_yaml())
                comparison = recipe.study(
                    methods, seeds, folder, progress=not quiet, teacher_ready=teller.teacher, report=teller.run
                )
            finally:
                started = begun(folder)
    except (OSError, KeyboardInterrupt) as stop:
        if not started:
            vars(stop)[NOTHING_BEGUN] = True
        raise
    finally:
        if (old := set_aside(folder)).is_dir():
            err().print(
                f"What {folder} held before lies in {old} until a run is finished", markup=False, soft_wrap=True
            )
    leave()
    show(comparison)
    if started:
        written = ", ".join(name for name in WRITTEN if (folder / name).is_file())
        err().print(f"Written to {folder}: {written}", markup=False, soft_wrap=True)
    if comparison.failures:
        raise SystemExit(1)


def show(comparison: Comparison) -> None:
    """The comparison's table, the models' sizes, and the failed runs."""
    from abkd.study import print_table

    print_table(comparison, out())
    if comparison.records:
        plain(_sizes(comparison.records[0]))
    for failure in comparison.failures:
        err().print(f"{failure.method}, seed {failure.seed}, failed: {failure.message}", style="red", markup=False)


def dry_run(recipe: Recipe, methods: Sequence[str]) -> None:
    """Two steps of every method on made-up data (and, of language, models), in a folder that goes away."""
    from abkd.engine import alone

    alone("a dry run")
    with tempfile.TemporaryDirectory(prefix="abkd-") as folder:
        recipe.dry_run(methods, folder, lambda method: plain(f"{recipe.source}: {method}: ok"))


class _Teller:
    """Says how each run ended, on standard error."""

    def __init__(self, recipe: Recipe, total: int) -> None:
        self._recipe = recipe
        self._total = total
        self._done = 0

    def teacher(self, result: RunResult) -> None:
        """The teacher's own result."""
        found = self._recipe.headline(result.metrics)
        self._print(f"teacher: {found} on held-out data, {result.parameters['student']:,} parameters")

    def run(self, planned: Planned, outcome: Record | Failure) -> None:
        """One student's result."""
        from abkd.study import Record

        self._done += 1
        head = f"[{self._done}/{self._total}] {planned.method}, seed {planned.seed}"
        if isinstance(outcome, Record):
            self._print(f"{head}: {self._recipe.headline(outcome.metrics)} ({outcome.seconds:.1f} s)")
        else:
            self._print(f"{head}: failed: {outcome.message}")

    def _print(self, text: str) -> None:
        err().print(text, markup=False, soft_wrap=True)


def _say_what(recipe: Recipe, methods: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    """What will run, with the name of every method's divergence, so that nobody mistakes one for another."""
    console = err()
    numbers = ", ".join(map(str, seeds))
    console.print(f"{recipe.source}: {len(methods)} x {len(seeds)} runs (seeds {numbers}) into {folder}", markup=False)
    for method in methods:
        console.print(f"  {method}: {recipe.describe(method)}", markup=False, soft_wrap=True)


def _sizes(record: Record) -> str:
    student, teacher = record.parameters.get("student"), record.parameters.get("teacher")
    if not student or not teacher:
        return f"student: {student:,} parameters" if student else ""
    line = f"student: {student:,} parameters; teacher: {teacher:,} ({teacher / student:.1f} times as many)"
    if record.teacher and "accuracy" in record.teacher:
        line += f", {100 * record.teacher['accuracy']:.2f} % on the test split"
    return line
