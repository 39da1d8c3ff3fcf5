"""Running a recipe's plan and showing what comes out: shared by train, compare and demo."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abkd.cli._console import err, out, plain
from abkd.storage import atomic_write_text

if TYPE_CHECKING:
    from abkd.config import Recipe
    from abkd.image import RunResult
    from abkd.study import Comparison, Failure, Planned, Record


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
    from abkd.study import open_folder, run_images

    folder = output if output is not None else Path(recipe.output)
    _say_what(recipe, methods, seeds, folder)
    open_folder(folder, methods, seeds, resume=resume, overwrite=overwrite)
    atomic_write_text(folder / "recipe.yaml", recipe.to_yaml())
    teller = _Teller(len(methods) * len(seeds))
    comparison = run_images(
        recipe.plan(methods, seeds),
        folder,
        resume=True,
        progress=not quiet,
        teacher_ready=teller.teacher,
        report=teller.run,
    )
    show(comparison)
    err().print(f"Written to {folder}: table.csv, table.md, table.png, curves.png, results.json, recipe.yaml")
    if comparison.failures:
        raise SystemExit(1)


def show(comparison: Comparison) -> None:
    """The comparison's table, the models' sizes, and the failed runs."""
    from abkd.study import rich_table

    out().print(rich_table(comparison))
    if comparison.records:
        plain(_sizes(comparison.records[0]))
    for failure in comparison.failures:
        err().print(f"{failure.method}, seed {failure.seed}, failed: {failure.message}", style="red", markup=False)


def dry_run(recipe: Recipe, methods: Sequence[str]) -> None:
    """Two steps of every method on made-up images of the right size, in a folder that goes away."""
    from abkd.config import image_facts
    from abkd.study import dry_run_images

    with tempfile.TemporaryDirectory(prefix="abkd-") as folder:
        dry_run_images(
            recipe.plan(methods, recipe.spec.seeds[:1]),
            folder,
            facts=image_facts(recipe.spec.data),
            report=lambda method: plain(f"{recipe.source}: {method}: ok"),
        )


class _Teller:
    """Says how each run ended, on standard error."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def teacher(self, result: RunResult) -> None:
        """The teacher's own result."""
        accuracy = 100 * result.metrics["test"]["best"]["accuracy"]
        self._print(f"teacher: {accuracy:.2f} % on the test split, {result.parameters['student']:,} parameters")

    def run(self, planned: Planned, outcome: Record | Failure) -> None:
        """One student's result."""
        from abkd.study import Record

        self._done += 1
        head = f"[{self._done}/{self._total}] {planned.method}, seed {planned.seed}"
        if isinstance(outcome, Record):
            accuracy = 100 * outcome.metrics["test"]["best"]["accuracy"]
            self._print(f"{head}: {accuracy:.2f} % ({outcome.seconds:.1f} s)")
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
    if record.teacher:
        line += f", {100 * record.teacher['accuracy']:.2f} % on the test split"
    return line
