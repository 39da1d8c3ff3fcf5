"""`abkd validate`: is a recipe sound?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from abkd.cli._console import err, plain

EXAMPLES = (
    "abkd validate recipes/cifar100/*.yaml",
    "abkd validate recipe.yaml method=dkd training.learning_rate=0.02",
)


def validate(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|KEY=VALUE",
            help="YAML files or names of shipped recipes, and values to set in all of them, as for train.",
        ),
    ],
) -> None:
    """Check recipes without loading any weights.

    Local files of instructions are read through. Prints `ok`, or every fault of a recipe, one line each with the path
    of the key; exit code 2 on a fault.
    """
    from abkd.config import fault_of, load_recipe
    from abkd.errors import InputError, RecipeError

    overrides = [word for word in words if "=" in word and not Path(word).exists()]
    recipes = [word for word in words if word not in overrides]
    if not recipes:
        raise InputError(f"expected at least one recipe, got {' '.join(overrides)} alone; name a YAML file")

    def check(recipe: str) -> None:
        loaded = load_recipe(recipe, overrides)
        if faults := list(loaded.file_faults()):
            raise RecipeError(faults, loaded.source)

    faulty = False
    for recipe in recipes:
        faults = fault_of(partial(check, recipe))
        if faults is None:
            plain(f"{recipe}: ok")
        else:
            faulty = True
            err().print(faults, style="red", markup=False, soft_wrap=True)
    if faulty:
        raise SystemExit(2)
