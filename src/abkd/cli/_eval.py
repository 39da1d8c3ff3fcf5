"""`abkd eval`: measure a saved student on held-out data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from abkd.cli._console import out, plain
from abkd.cli._options import at_home, numbers
from abkd.errors import InputError

EXAMPLES = (
    "abkd eval runs/demo/runs/abkd/seed-1",
    "abkd eval recipe.yaml --json",
    "abkd eval runs/lm/runs/abkd/seed-10 --set dolly --set self-instruct --output runs/texts",
)


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|RECIPE|MODEL",
            help="A run folder, a comparison's folder, or a recipe whose runs are finished; with --set a run folder, "
            "or a language model's folder or name.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where a recipe's runs are, default its output; with --set, where the texts go.",
            callback=at_home,
        ),
    ] = None,
    which: Annotated[
        str,
        typer.Option("--which", metavar="best|last", help="The epoch chosen on validation, or the last one."),
    ] = "best",
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME|FILE",
            help="Instructions to answer: dolly, self-instruct, vicuna, s-ni, unni, a file, a folder, owner/name.",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            "-s",
            metavar="10,20,...",
            help="With --set: of the sampling; default the run's own, or 10,20,30,40,50.",
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="alpaca|chat|plain",
            help="With --set: how a prompt is made; default the run's own, alpaca where there is no run.",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root", metavar="FOLDER", help="With --set: MiniLLM's data, instead of the hub.", callback=at_home
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", metavar="N", help="With --set: only the first N of each set.")
    ] = None,
    drop_empty: Annotated[
        bool, typer.Option("--drop-empty", help="With --set: leave out rows with an empty reference.")
    ] = False,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", metavar="N", help="With --set: of a response; default the run's own, or 256."),
    ] = None,
    max_prompt_length: Annotated[
        int | None,
        typer.Option(
            "--max-prompt-length",
            metavar="N",
            help="With --set: tokens of a prompt, longer ones are shortened; default the run's own, or 256.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure saved students on held-out data.

    Of images: accuracy, top-5 accuracy, negative log-likelihood in nats, and expected calibration error. Of
    language: KL from the teacher and NLL on the run's held-out rows; with --set the published instruction
    protocol: responses sampled with every seed, ROUGE-L and exact match, means with standard error and a 95 %
    interval. Other benchmarks: lm_eval --model hf --model_args pretrained=FOLDER/best.
    """
    from abkd.engine import alone
    from abkd.study import evaluate_folder, evaluate_texts

    alone("an evaluation")
    if sets:
        _check_one_model(target, which)
        result = evaluate_texts(
            target,
            tuple(sets),
            output=output,
            which=which,
            template=template,
            root=None if root is None else str(root),
            size=size,
            drop_empty=drop_empty,
            seeds=None if seeds is None else numbers(seeds, "--seeds"),
            max_new_tokens=max_new_tokens,
            max_prompt_length=max_prompt_length,
            progress=not as_json,
        )
        plain(json.dumps(result.as_dict(), indent=2) if as_json else str(result))
        return
    needing = {
        "--seeds": seeds,
        "--template": template,
        "--root": root,
        "--size": size,
        "--drop-empty": drop_empty or None,
        "--max-new-tokens": max_new_tokens,
        "--max-prompt-length": max_prompt_length,
    }
    _check_without_sets(needing, target, output)
    results = evaluate_folder(_folder_of(target, output), which=which, progress=not as_json)
    if as_json:
        plain(json.dumps(results, indent=2))
    else:
        _show(results)


def _check_without_sets(needing: Mapping[str, Any], target: str, output: Path | None) -> None:
    """Without --set, no option is left unused that needs it.

    Raises:
        InputError: One of them was given.
    """
    for option, given in needing.items():
        if given is not None:
            raise InputError(f"{option} is of --set, which is not given: name a set, or leave it out")
    if output is not None and Path(target).is_dir():
        raise InputError(f"--output: {target} is the folder that is measured, and nothing is written; leave it out")


def _check_one_model(target: str, which: str) -> None:
    """With --set, one model is asked.

    Raises:
        InputError: A folder without one, a recipe, or another file.
    """
    from abkd.config import shipped_recipes

    place = Path(target)
    if place.is_dir():
        models = (place / which / "config.json", place / "config.json", place / "adapter_config.json")
        found = "a folder without any" if not any(file.is_file() for file in models) else ""
        runs = sorted(file.parent for file in place.glob("runs/*/*/result.json"))
        example = f", such as {runs[0]}" if runs else ""
    else:
        found = "a file" if place.is_file() else "a recipe" if target in shipped_recipes() else ""
        example = ""
    if found:
        raise InputError(
            f"{target}: with --set, expected a run folder, or a language model's folder or name, found {found}; name "
            f"one model{example}"
        )


def _show(results: Mapping[str, Mapping[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    from abkd.study import folded

    names = list(dict.fromkeys(name for metrics in results.values() for name in metrics))

    def table(columns: Sequence[int]) -> Table:
        made = Table(box=box.SIMPLE_HEAD)
        made.add_column("run", no_wrap=True)
        for column in columns:
            made.add_column(names[column], justify="right", no_wrap=True)
        for run, metrics in results.items():
            values = (metrics.get(names[column]) for column in columns)
            made.add_row(run, *("-" if value is None else f"{value:.4f}" for value in values))
        return made

    console = out()
    for made in folded(table, len(names), console):
        console.print(made)


def _folder_of(target: str, output: Path | None) -> Path:
    """The folder that holds the runs: the target itself, or the output of the recipe that it is."""
    if Path(target).is_dir():
        return Path(target)
    from abkd.config import load_recipe

    return output if output is not None else Path(load_recipe(target).output)
