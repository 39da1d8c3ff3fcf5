"""`abkd demo`: the quickstart recipe, compared from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abkd.errors import InputError, nearest

from ._options import Overrides, Overwrite, Quiet, Resume
from ._study import run_and_show

_DEMOS = {"image": "quickstart/image"}


def demo(
    task: Annotated[str, typer.Argument(metavar="[TASK]", help="What to demonstrate: image.")] = "image",
    overrides: Overrides = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write.", show_default=True)
    ] = Path("runs/demo"),
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a teacher on real images, distil it by nine methods and three seeds, show table and pictures.

    \b
    abkd demo image
    abkd demo image --output runs/mine seeds=[1]
    """
    from abkd.config import load_recipe

    if task not in _DEMOS:
        raise InputError(f"demo {task!r}: no such demo; {nearest(task, _DEMOS)}")
    loaded = load_recipe(_DEMOS[task], overrides or ())
    run_and_show(
        loaded,
        loaded.compared_methods,
        loaded.compared_seeds,
        output=output,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
    )
