"""Methods and divergences of a recipe, checked by the rooms that own them, one setting at a time."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from abkd import divergences
from abkd.config._faults import fault_of
from abkd.config._image import Divergence, MethodSettings
from abkd.errors import nearest


def method_names() -> tuple[str, ...]:
    """Every name that can stand after `method:`."""
    from abkd.image.objectives import METHODS

    return tuple(METHODS)


def needs_teacher(method: str) -> bool:
    """Whether a method learns from a teacher."""
    from abkd.image.objectives import by_name

    return by_name(method).needs_teacher


def method_problems(method: str, settings: MethodSettings, path: str, prefix: str) -> Iterator[str]:
    """One line for each thing wrong with a method's name, divergence and loss settings.

    Args:
        method: The name as written.
        settings: The sections that belong to it.
        path: Where the name stands in the recipe.
        prefix: What stands before `divergence` and `loss` in their paths, with a dot or empty.
    """
    from abkd.image.objectives import by_name

    if method not in method_names():
        yield f"{path}: no such method as {method!r}; {nearest(method, method_names())}"
        if settings.divergence is not None and settings.divergence.name is not None:
            yield from divergence_problems(settings.divergence, {}, f"{prefix}divergence")
        return
    for key, value in settings.loss.items():
        yield from value_problems(
            value, lambda number, key=key: by_name(method, **{key: number}), f"{prefix}loss.{key}"
        )
    if settings.divergence is None:
        return
    own = own_divergence(method)
    if own is None:
        yield f"{prefix}divergence: the method {method} takes no divergence; leave the section out"
        return
    yield from divergence_problems(settings.divergence, own, f"{prefix}divergence")


def own_divergence(method: str) -> dict[str, Any] | None:
    """A method's own divergence, as `{"name": ..., setting: value}`; None if it takes none."""
    from abkd.image.objectives import by_name

    divergence = getattr(by_name(method), "divergence", None)
    if divergence is None:
        return None
    return {"name": divergence.key, **_fields(divergence)}


def full_divergence(written: Divergence, own: Mapping[str, Any]) -> dict[str, Any]:
    """What is written, with the method's own divergence where nothing is."""
    name = chosen_name(written, own)
    base = own if name == own.get("name") else {"name": name}
    return {**base, **written.settings}


def describe_method(method: str, settings: MethodSettings) -> str:
    """A method's settings in words: its divergence by name (special cases named), then its numbers."""
    from abkd.image.objectives import by_name

    first = {key: numbers_of(value)[0] for key, value in settings.loss.items()}
    shown = {
        **by_name(method, **first).describe(),
        **{key: _shown(value) for key, value in settings.loss.items()},
    }
    shown.pop("divergence", None)
    parts = [f"{key} {value}" for key, value in shown.items()]
    written = full_divergence(settings.divergence or Divergence(), own_divergence(method) or {})
    if written:
        name = written.pop("name")
        start = divergences.by_name(name, **{key: numbers_of(value)[0] for key, value in written.items()})
        moving = [f"{key} {_shown(value)}" for key, value in written.items() if len(numbers_of(value)) > 1]
        parts.insert(0, f"{start.name} at the start, {', '.join(moving)}" if moving else start.name)
    return "; ".join(parts)


def _shown(value: Any) -> str:
    ends = numbers_of(value)
    return f"from {ends[0]} to {ends[1]}" if len(ends) == 2 else str(value)


def numbers_of(value: Any) -> list[Any]:
    """The values that a setting takes: itself, or both ends of a schedule."""
    if isinstance(value, Mapping) and {"from", "to"} & set(value):  # pyright: ignore[reportUnknownArgumentType]
        return [value[key] for key in ("from", "to") if key in value]
    return [value]


def chosen_name(written: Divergence, own: Mapping[str, Any]) -> str | None:
    """The name of the divergence that is meant: the one written; alpha and beta are alpha-beta's; else the method's."""
    if written.name is None and {"alpha", "beta"} <= set(written.settings):
        return "alpha_beta"
    return written.name or own.get("name")


def divergence_problems(written: Divergence, own: Mapping[str, Any], path: str) -> Iterator[str]:
    """One line for each thing wrong with a divergence that is written for a method whose own is `own`."""
    name = chosen_name(written, own) or own["name"]
    if name not in divergences.names():
        yield f"{path}.name: no such divergence as {name!r}; {nearest(name, divergences.names())}"
        return
    example = next(member for member in divergences.ALL if getattr(member, "key", None) == name)
    base = _fields(example)
    missing = [key for key in _required(example) if key not in written.settings and name != own.get("name")]
    if missing:
        yield f"{path}: {name} needs {' and '.join(missing)}: give a number for each"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself warns of settings that blow up
        for key, value in written.settings.items():
            yield from value_problems(
                value,
                lambda number, key=key: divergences.by_name(name, **{**base, key: number}),
                f"{path}.{key}",
            )


def value_problems(value: Any, use: Callable[[Any], object], path: str) -> Iterator[str]:
    """What is wrong with a number, or with either end of a schedule and the schedule itself."""
    for number in numbers_of(value):
        fault = fault_of(lambda number=number: use(number), TypeError)
        if fault is not None:
            yield f"{path}: {fault}"
            return
    if isinstance(value, Mapping):
        from abkd.engine import as_schedule

        fault = fault_of(lambda: as_schedule(value))
        if fault is not None:
            yield f"{path}: {fault}"


def _fields(divergence: divergences.Divergence) -> dict[str, Any]:
    return {field.name: getattr(divergence, field.name) for field in dataclasses.fields(divergence)}  # type: ignore[arg-type]


def _required(divergence: divergences.Divergence) -> list[str]:
    missing = dataclasses.MISSING
    return [
        field.name
        for field in dataclasses.fields(divergence)  # type: ignore[arg-type]
        if field.default is missing and field.default_factory is missing
    ]
