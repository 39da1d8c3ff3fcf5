"""`abkd cache`: a teacher's answers on disk."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from abkd.cli._console import plain
from abkd.cli._options import Overrides, RecipePath, at_home
from abkd.errors import InputError

EXAMPLES = (
    "abkd cache recipe.yaml",
    "abkd cache recipe.yaml --output runs/cache/mine --top-k 50 --bits 16",
)


def cache(
    recipe: RecipePath,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where to write; default: runs/cache/ and the recipe's name.",
            callback=at_home,
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="K", help="At most so many entries a token.", show_default=False)
    ] = None,
    tail_mass: Annotated[
        float | None,
        typer.Option("--tail-mass", metavar="P", help="The fewest entries that leave less than this mass."),
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(
            "--min-probability",
            metavar="P",
            help="Only entries of at least this; of the three, 0.0015 if none is given.",
        ),
    ] = None,
    min_entries: Annotated[
        int | None,
        typer.Option("--min-entries", metavar="N", help="But at least so many; with none of the three given, 32."),
    ] = None,
    power: Annotated[
        float | None,
        typer.Option(
            "--power", metavar="S", help="Also for losses of alpha + beta = S; default: the recipe's, if above 1."
        ),
    ] = None,
    bits: Annotated[int, typer.Option("--bits", metavar="4-8|16", help="Of each log-probability.")] = 6,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Rows the teacher reads at once.")] = 8,
) -> None:
    """Keep a language teacher's answers to the training rows.

    Training from them needs no teacher in memory: abkd train RECIPE teacher.cache=FOLDER. Interrupted, the same
    command goes on. The folder is one that datasets.load_from_disk reads: the rows, and the teacher's columns.
    """
    from abkd.config import LmJob, load_recipe
    from abkd.engine import alone
    from abkd.study import measured_cache

    alone("a cache")
    loaded = load_recipe(recipe, [*(overrides or ()), "teacher.cache=null"])
    if not isinstance(loaded, LmJob):
        raise InputError("abkd cache is for language recipes; an image recipe has teacher.cache: memory")
    words = [loaded.source, *(overrides or ())]
    teacher = loaded.spec.teacher
    if teacher is not None and teacher.training is not None:
        trained = shlex.quote(f"teacher={{model: {loaded.output}/teacher/best}}")
        raise InputError(
            f"teacher.training: the cache would be of {teacher.model} as it is before: train it first, with "
            f"`abkd train {shlex.join(words)}`, then name it: `abkd cache {shlex.join(words)} {trained}`"
        )
    folder = output if output is not None else Path("runs/cache") / Path(loaded.source).stem
    made, lost = measured_cache(
        loaded.run(loaded.spec.method, loaded.spec.seeds[0]),
        folder,
        top_k=top_k,
        tail_mass=tail_mass,
        min_probability=min_probability,
        min_entries=min_entries,
        power=power,
        bits=bits,
        batch_size=batch_size,
    )
    told = made.summary
    plain(
        f"{folder}: {told['rows']:,} rows, {told['tokens']:,} tokens, {told['bytes_per_token']:.1f} bytes a token, "
        f"{told['entries_per_token']:.1f} entries a token, mean mass outside them {told['tail_mass']:.4f}"
    )
    if lost is not None:
        plain(
            f"On {lost.tokens:,} tokens the student, as it starts, is {lost.cached:.4f} nats from the cache and "
            f"{lost.live:.4f} from the teacher ({lost.bias:+.2%}); its gradient is {lost.gradient_error:.1%} off"
        )
    plain(f"Train from it with: abkd train {shlex.join([*words, f'teacher.cache={folder}'])}")
