"""`abkd validate`: is a recipe sound?"""

from __future__ import annotations

from typing import Annotated

import typer

from abkd.errors import RecipeError

from ._console import err, plain


def validate(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="YAML files, or names of shipped recipes.")],
) -> None:
    """Check recipes without running or loading anything: `ok`, or every fault, one line each.

    \b
    abkd validate recipes/cifar100/*.yaml
    """
    from abkd.config import load_recipe

    faulty = False
    for recipe in recipes:
        try:
            load_recipe(recipe)
        except RecipeError as error:
            faulty = True
            err().print(str(error), style="red", markup=False, soft_wrap=True)
        else:
            plain(f"{recipe}: ok")
    if faulty:
        raise SystemExit(2)
