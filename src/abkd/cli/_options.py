"""Arguments and options that several subcommands have, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abkd.errors import InputError

RecipePath = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A YAML file, or the name of a recipe that comes with abkd, such as quickstart/image or quickstart/lm.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Values to set, by dotted path, read as YAML: divergence.alpha=0.3 seeds=[1,2]",
    ),
]


def at_home(folder: Path | None) -> Path | None:
    """With `~` written out, which a shell leaves alone in --output=~/FOLDER."""
    return None if folder is None else folder.expanduser()


Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FOLDER", help="Where to write; default: the recipe's output.", callback=at_home
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Keep finished runs and go on from the newest whole checkpoint.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remove what the folder holds, and start anew.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Two steps of every method on made-up data (of language: tiny models); keep nothing."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers separated by commas.

    Raises:
        InputError: Something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option}: expected whole numbers separated by commas, got {text!r}") from None
