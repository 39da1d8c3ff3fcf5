"""`abkd demo`: the quickstart recipe, compared from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abkd.cli._options import Overrides, Overwrite, Quiet, Resume
from abkd.cli._study import run_and_show
from abkd.errors import InputError, nearest

_DEMOS = {"image": "quickstart/image"}


EXAMPLES = (
    "abkd demo image",
    "abkd demo image --output runs/mine seeds=[1]",
)


def demo(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What to demonstrate: image.")] = "image",
    overrides: Overrides = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write.", show_default=True)
    ] = Path("runs/demo"),
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Distil real images end to end; show a table and pictures.

    Trains a teacher on 3,600 handwritten digits, then distils it into a student more than 20 times smaller
    that sees only a few of them, by nine methods and three seeds. Takes a few minutes on two cores.
    """
    import torch

    from abkd.config import load_recipe

    if task not in _DEMOS:
        raise InputError(f"demo {task!r}: no such demo; {nearest(task, _DEMOS)}")
    torch.set_num_threads(1)  # models this small: more threads would mostly wait for each other
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
