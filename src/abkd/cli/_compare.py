"""`abkd compare`: several methods, several seeds, one table."""

from __future__ import annotations

from typing import Annotated

import typer

from abkd.cli._options import DryRun, Output, Overrides, Overwrite, Quiet, RecipePath, Resume
from abkd.cli._study import dry_run, run_and_show

EXAMPLES = (
    "abkd compare recipe.yaml --methods kd,dkd,abkd --seeds 1,2,3",
    "abkd compare recipe.yaml --resume",
)


def compare(
    recipe: RecipePath,
    overrides: Overrides = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", "-m", metavar="A,B,...", help="Methods; default: compare.methods of the recipe."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", "-s", metavar="1,2,...", help="Seeds; default: compare.seeds, else seeds."),
    ] = None,
    output: Output = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run_only: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods over seeds in one table, all else equal.

    The recipe's divergence and loss belong to its own method, also where method=NAME takes its place; every other
    method has its defaults unless compare.settings says otherwise. Writes table.csv, table.md, table.png,
    curves.png, results.json, recipe.yaml and environment.json.
    """
    from abkd.config import load_recipe

    words = list(overrides or ())
    if methods is not None:
        words.append(f"compare.methods=[{methods}]")
    if seeds is not None:
        words.append(f"compare.seeds=[{seeds}]")
    loaded = load_recipe(recipe, words)
    chosen = loaded.compared_methods
    if dry_run_only:
        dry_run(loaded, chosen)
        return
    run_and_show(
        loaded,
        chosen,
        loaded.compared_seeds,
        output=output,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
    )
