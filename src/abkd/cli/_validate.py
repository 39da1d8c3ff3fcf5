"""`abkd validate`: is a recipe sound?"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from abkd.cli._console import err, plain

EXAMPLES = ("abkd validate recipes/cifar100/*.yaml",)


def validate(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE", help="YAML files, or names of shipped recipes.")],
) -> None:
    """Check recipes without loading any weights.

    Local files of instructions are read through. Prints `ok`, or every fault of a recipe, one line each with the path
    of the key; exit code 2 on a fault.
    """
    from abkd.config import fault_of, load_recipe
    from abkd.errors import RecipeError

    def check(recipe: str) -> None:
        loaded = load_recipe(recipe)
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
