"""Turning what pydantic finds into lines: `field.path: what was expected, what came, the nearest name`."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from abkd.errors import nearest


def lines(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[str]:
    """One line a fault found by pydantic in an object of type `model` that stands at `prefix`."""
    return [_line(fault, model, prefix) for fault in error.errors(include_url=False)]


def show(value: object) -> str:
    """A value as it stands in a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _line(fault: ErrorDetails, model: type[BaseModel], prefix: str) -> str:
    location = tuple(part for part in fault["loc"] if not _is_branch(part))
    path = ".".join(part for part in (prefix, _dotted(location)) if part) or "recipe"
    if fault["type"] == "extra_forbidden":
        return f"{path}: no such key; {nearest(str(location[-1]), _fields_at(model, location[:-1]))}"
    if fault["type"] == "missing":
        return f"{path}: required and not given"
    message = fault["msg"]
    for old, new in (
        ("Input should be", "expected"),
        ("Value error, ", ""),
        ("a valid dictionary or instance of", "a mapping, as"),
        ("a valid dictionary", "a mapping"),
        ("a valid ", "a "),
        ("a integer", "an integer"),
        (", unable to parse string as a number", ""),
        (", unable to parse string as an integer", ""),
    ):
        message = message.replace(old, new)
    return f"{path}: {message}, got {show(fault['input'])}"


def _is_branch(part: int | str) -> bool:
    """Whether pydantic put the name of a union's branch, not a key, into the location."""
    return isinstance(part, str) and (
        part in {"float", "int", "str", "bool"} or "[" in part or part[:1].isupper()
    )


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that the mapping at `location` may have."""
    current: type[BaseModel] = model
    for part in location:
        field = current.model_fields.get(str(part))
        if field is None:
            continue
        inner = next(_models_in(field.annotation), None)
        if inner is not None:
            current = inner
    return [field.alias or name for name, field in current.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models_in(inner)
