"""`abkd methods`: what can stand after `method:` in a recipe."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from abkd.cli._console import out, plain

EXAMPLES = ("abkd methods", "abkd methods --json")


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the methods, their defaults and sources."""
    from abkd.image.objectives import METHODS

    if as_json:
        entries = [
            {
                "name": method.name,
                "title": method.title,
                "description": method.description,
                "source": method.source,
                "defaults": dict(method.defaults),
            }
            for method in METHODS.values()
        ]
        plain(json.dumps(entries, indent=2, default=str))
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("name", "what it does", "defaults", "source"):
        table.add_column(title, overflow="fold")
    for method in METHODS.values():
        defaults = ", ".join(f"{key} {value}" for key, value in method.defaults.items())
        table.add_row(method.name, method.description, defaults, method.source)
    out().print(table, markup=False)
