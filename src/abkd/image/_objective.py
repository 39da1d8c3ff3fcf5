"""A method by name, with settings that may change over the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abkd.divergences import by_name as divergence_by_name
from abkd.engine import as_schedule, is_schedule
from abkd.errors import InputError
from abkd.image.objectives import by_name


class ScheduledObjective:
    """The objective of a method at each point of a run.

    Args:
        method: a name of `abkd.image.objectives.METHODS`.
        divergence: `{"name": ..., setting: value}`, or None for the method's own.
        settings: of the method.

    Each value of `divergence` and `settings` may be a schedule (`abkd.engine.Schedule`, or written as a
    mapping).

    Raises:
        InputError: an unknown name or setting, or a value out of range at the start or the end of the run.
    """

    def __init__(self, method: str, divergence: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
        if divergence is not None and "name" not in divergence:
            raise InputError("divergence: 'name' is missing, e.g. {'name': 'alpha_beta', 'alpha': 0.8, 'beta': 0.2}")
        self._method = method
        self._divergence = None if divergence is None else _read(divergence)
        self._settings = _read(settings)
        self._changes = any(is_schedule(value) for value in (*(divergence or {}).values(), *settings.values()))
        self._last = self._build(1.0)
        self._first = self._build(0.0)
        self.needs_teacher: bool = self._first.needs_teacher

    def at(self, progress: float) -> Any:
        """The objective when the share `progress` of the run is done."""
        return self._build(progress) if self._changes else self._first

    def _build(self, progress: float) -> Any:
        divergence = None
        if self._divergence is not None:
            values = _at(self._divergence, progress)
            divergence = divergence_by_name(values.pop("name"), **values)
        return by_name(self._method, divergence=divergence, **_at(self._settings, progress))


class FixedObjective:
    """An objective that stays the same."""

    def __init__(self, objective: Any) -> None:
        self._objective = objective
        self.needs_teacher: bool = objective.needs_teacher

    def at(self, progress: float) -> Any:
        """The objective."""
        del progress
        return self._objective


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: as_schedule(value) if is_schedule(value) else value for name, value in values.items()}


def _at(values: Mapping[str, Any], progress: float) -> dict[str, Any]:
    return {name: value.at(progress) if is_schedule(value) else value for name, value in values.items()}
