"""The command line: `abkd train`, `compare`, `cache`, `eval`, `validate`, `methods`, `demo`.

One file a subcommand, each thin: it reads a recipe, calls a room below, and prints. Exit codes: 0 done;
1 a run failed; 2 bad usage, recipe or data; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    import typer

__all__ = ["main"]

_HELP = """Knowledge distillation with the alpha-beta-divergence, and the methods it is compared with.

A recipe (YAML) says which teacher, student, data and method; every value can be overridden on the
command line by its dotted path: abkd train recipe.yaml divergence.alpha=0.3

Exit codes: 0 done; 1 a run failed; 2 bad usage, recipe or data; 130 stopped by Ctrl-C.
"""


def commands() -> dict[str, tuple[Callable[..., None], Sequence[str]]]:
    """Every subcommand with the examples under its help, in the order of the help."""
    from abkd.cli import _cache, _compare, _demo, _eval, _methods, _train, _validate

    return {
        "demo": (_demo.demo, _demo.EXAMPLES),
        "train": (_train.train, _train.EXAMPLES),
        "compare": (_compare.compare, _compare.EXAMPLES),
        "cache": (_cache.cache, _cache.EXAMPLES),
        "eval": (_eval.evaluate, _eval.EXAMPLES),
        "validate": (_validate.validate, _validate.EXAMPLES),
        "methods": (_methods.methods, _methods.EXAMPLES),
    }


def application() -> typer.Typer:
    """The typer application that holds every subcommand."""
    import typer

    from abkd.cli._console import guarded

    app = typer.Typer(
        name="abkd",
        help=_HELP,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    version = typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)

    def top(version: Annotated[bool, version] = False) -> None:  # shown by its callback
        del version

    top.__doc__ = _HELP
    top.__annotations__ = {"version": Annotated[bool, version], "return": None}
    app.callback()(top)
    for name, (function, examples) in commands().items():
        epilog = "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)
        app.command(name, epilog=epilog)(guarded(function))
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after `abkd`; those of this process if None.

    Returns:
        The exit code.
    """
    try:
        app = application()
    except ImportError as error:
        print(f'abkd: the command line needs {error.name}: pip install "abkd[engine]"', file=sys.stderr)
        return 2
    try:
        app(args=None if arguments is None else list(arguments), prog_name="abkd")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        from abkd import __version__

        print(f"abkd {__version__}")
        raise SystemExit(0)
