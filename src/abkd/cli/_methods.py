"""`abkd methods`: what can stand after `method:` in a recipe."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from abkd.cli._console import out, plain
from abkd.errors import InputError, nearest

EXAMPLES = ("abkd methods", "abkd methods lm", "abkd methods --json")
_TASKS = ("image", "lm")


def methods(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Whose methods: image or lm.")] = "image",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the methods, their defaults and sources."""
    entries = _entries(task)
    if as_json:
        plain(json.dumps(entries, indent=2, default=str))
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("what it does; its defaults; its source")
    for entry in entries:
        defaults = ", ".join(f"{key} {_shown(value)}" for key, value in entry["defaults"].items())
        table.add_row(entry["name"], "\n".join(filter(None, (entry["description"], defaults, entry["source"]))))
    out().print(table, markup=False)


def _entries(task: str) -> list[dict[str, Any]]:
    if task not in _TASKS:
        raise InputError(f"methods {task!r}: no such task; {nearest(task, _TASKS)}")
    if task == "image":
        from abkd.image.objectives import METHODS

        return [_entry(method, dict(method.defaults)) for method in METHODS.values()]
    from abkd.lm import METHODS as LM_METHODS

    return [_entry(method, _lm_defaults(method)) for method in LM_METHODS.values()]


def _entry(method: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": method.name,
        "title": method.title,
        "description": method.description,
        "source": method.source,
        "defaults": defaults,
    }


def _lm_defaults(method: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if method.divergence is not None:
        found["divergence"] = dict(method.divergence)
    if method.ce_weight:
        found["ce_weight"] = method.ce_weight
    if method.student_text is not None:
        found["student_text"] = dict(method.student_text)
    return {**found, **method.settings}


def _shown(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return "(" + ", ".join(f"{key} {inner}" for key, inner in value.items()) + ")"  # pyright: ignore[reportUnknownVariableType]
