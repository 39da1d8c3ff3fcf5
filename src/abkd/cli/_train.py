"""`abkd train`: one method, every seed of the recipe."""

from __future__ import annotations

from abkd.cli._options import DryRun, Output, Overrides, Overwrite, Quiet, RecipePath, Resume
from abkd.cli._study import dry_run, run_and_show

EXAMPLES = (
    "abkd train recipe.yaml",
    "abkd train recipe.yaml method=dkd seeds=[1,2,3] training.learning_rate=0.02",
    "abkd train recipe.yaml --dry-run",
)


def train(
    recipe: RecipePath,
    overrides: Overrides = None,
    output: Output = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run_only: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Train a student by one method, once for each seed.

    The epoch is chosen on the validation split; the test split is looked at once, at the end.
    """
    from abkd.config import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    if dry_run_only:
        dry_run(loaded, [loaded.spec.method])
        return
    run_and_show(
        loaded,
        [loaded.spec.method],
        loaded.spec.seeds,
        output=output,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
    )
