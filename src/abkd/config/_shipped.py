"""Recipes that come with abkd: inside an installed package, or beside the source of a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from abkd.errors import RecipeError, nearest


def recipes_folder() -> Path:
    """The folder of shipped recipes.

    The wheel carries the repository's recipes/ as abkd/recipes; in a checkout they are two folders up.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parents[1] / "recipes"


def shipped_recipes() -> list[str]:
    """Names of the shipped recipes, such as `quickstart/image`."""
    folder = recipes_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def find_recipe(path: str | os.PathLike[str]) -> Path:
    """The file of a recipe given by path or by name.

    Raises:
        RecipeError: There is no such file and no shipped recipe of that name.
    """
    file = Path(path)
    if file.is_dir():
        raise RecipeError(["expected a YAML file, found a folder"], str(path))
    if file.exists():
        return file
    shipped = recipes_folder() / f"{file.as_posix()}.yaml"
    if shipped.is_file():
        return shipped
    known = shipped_recipes()
    hint = nearest(file.with_suffix("").as_posix(), known) if known else "and none comes with abkd"
    raise RecipeError([f"no such file, and no recipe of that name comes with abkd; {hint}"], str(path))
