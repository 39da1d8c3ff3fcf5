"""Turning what pydantic finds into lines: `field.path: what was expected, what came, the nearest name`."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from abkd.errors import AbkdError, nearest

_SAID_WITHOUT_VALUE = {"extra_forbidden", "missing", "value_error"}
_WORDING = (
    ("List should have at least 1 item after validation, not 0", "expected at least 1 item"),
    ("Input should be", "expected"),
    ("Value error, ", ""),
    ("a valid dictionary or instance of", "a mapping, as"),
    ("a valid dictionary", "a mapping"),
    ("a valid ", "a "),
    ("a integer", "an integer"),
    ("a list", "a list, [...]"),
    (", unable to parse string as a number", ""),
    (", unable to parse string as an integer", ""),
)


def lines(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line a key for what pydantic found in an object of type `model`."""
    faults: dict[str, list[str]] = {}
    came: dict[str, object] = {}
    for fault in error.errors(include_url=False):
        location = tuple(part for part in fault["loc"] if not _is_branch(part))
        path = ".".join(str(part) for part in location) or "recipe"
        message = _message(fault, location, model)
        if message not in faults.setdefault(path, []):
            faults[path].append(message)
        if fault["type"] not in _SAID_WITHOUT_VALUE:
            came[path] = fault["input"]
    return [
        f"{path}: {', or '.join(messages)}" + (f"; got {show(came[path])}" if path in came else "")
        for path, messages in faults.items()
    ]


def fault_of(attempt: Callable[[], object], *kinds: type[Exception]) -> str | None:
    """What goes wrong in an attempt, if it raises an AbkdError or one of `kinds`; None if it goes well."""
    try:
        attempt()
    except (AbkdError, *kinds) as error:
        return str(error)
    return None


def named_once(fault: str) -> str:
    """A line `field.path: what is wrong`, without the field's name once more after the path."""
    path, sign, said = fault.partition(": ")
    again, twice, rest = said.partition(": ")
    if sign and twice and again.split(".")[-1] == path.split(".")[-1]:
        return named_once(f"{path}: {rest}")
    return fault


def show(value: object) -> str:
    """A value as it stands in a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _message(fault: ErrorDetails, location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    if fault["type"] == "extra_forbidden":
        return f"no such key; {nearest(str(location[-1]), keys_at(model, location[:-1]))}"
    if fault["type"] == "missing":
        return "required and not given"
    message = fault["msg"]
    for old, new in _WORDING:
        message = message.replace(old, new)
    return message


def _is_branch(part: int | str) -> bool:
    """Whether pydantic put the name of a union's branch, not a key, into the location."""
    if not isinstance(part, str):
        return False
    return part in {"float", "int", "str", "bool"} or "[" in part or part.startswith("constrained-")


def keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
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
