"""`abkd eval`: measure a saved student on the test split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from abkd.cli._console import out, plain

EXAMPLES = (
    "abkd eval runs/demo/runs/abkd/seed-1",
    "abkd eval recipe.yaml --json",
)


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|RECIPE",
            help="A run folder, a comparison's folder, or a recipe whose runs are finished.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where a recipe's runs are; default: its output."),
    ] = None,
    which: Annotated[
        str,
        typer.Option("--which", metavar="best|last", help="The epoch chosen on validation, or the last one."),
    ] = "best",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure saved students on the test split.

    Accuracy, top-5 accuracy, negative log-likelihood in nats, and expected calibration error, of the
    weights as they lie in the run folders.
    """
    from abkd.study import evaluate_folder

    folder = _folder_of(target, output)
    results = evaluate_folder(folder, which=which)
    if as_json:
        plain(json.dumps(results, indent=2))
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    names = list(next(iter(results.values())))
    table.add_column("run", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    for run, metrics in results.items():
        table.add_row(run, *(f"{metrics[name]:.4f}" if name in metrics else "-" for name in names))
    out().print(table)


def _folder_of(target: str, output: Path | None) -> Path:
    """The folder that holds the runs: the target itself, or the output of the recipe that it is."""
    if Path(target).is_dir():
        return Path(target)
    from abkd.config import load_recipe

    return output if output is not None else Path(load_recipe(target).output)
