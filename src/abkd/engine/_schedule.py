"""A number that changes over a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from abkd.errors import InputError, nearest

SHAPES = ("constant", "linear", "cosine")
_KEYS = ("from", "to", "shape", "until")


@dataclass(frozen=True)
class Schedule:
    """A value that goes from `from_` to `to` over the first `until` of a run, and stays there.

    With t = min(progress / until, 1): constant is `from_`; linear is from_ + (to - from_) t; cosine is
    to + (from_ - to) (1 + cos(pi t)) / 2.

    Attributes:
        from_: the value at the start.
        to: the value from `until` on.
        shape: "constant", "linear" or "cosine".
        until: the share of the run after which `to` is reached, in (0, 1].

    Raises:
        InputError: a value that is not finite, an unknown shape, a constant one with two values, or `until` outside
            (0, 1].
    """

    from_: float
    to: float
    shape: str = "linear"
    until: float = 1.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise InputError(f"schedule: unknown shape {self.shape!r}; {nearest(str(self.shape), SHAPES)}")
        for name, value in (("from", self.from_), ("to", self.to), ("until", self.until)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InputError(f"schedule: {name} must be a finite number, got {value!r}")
        if self.shape == "constant" and self.from_ != self.to:
            raise InputError(
                f"schedule: a constant one stays at {self.from_} and never gets to {self.to}: give the number alone, "
                "or shape linear or cosine"
            )
        if not 0 < self.until <= 1:
            raise InputError(f"schedule: until must be in (0, 1], got {self.until}")

    def at(self, progress: float) -> float:
        """The value when the share `progress` of the run is done, in [0, 1]."""
        if self.shape == "constant":
            return float(self.from_)
        t = min(max(progress / self.until, 0.0), 1.0)
        if self.shape == "linear":
            return self.from_ + (self.to - self.from_) * t
        return self.to + (self.from_ - self.to) * (1 + math.cos(math.pi * t)) / 2


def is_schedule(value: Any) -> bool:
    """Whether a setting is written as a schedule: a `Schedule`, or a mapping with `from` and `to`."""
    if isinstance(value, Schedule):
        return True
    return isinstance(value, Mapping) and bool({"from", "to"} & set(cast("Mapping[str, Any]", value)))


def as_schedule(value: Any) -> Schedule:
    """A schedule from a number (constant), from `{"from": ..., "to": ..., "shape": ..., "until": ...}`.

    Raises:
        InputError: none of these, an unknown key, or `from` or `to` missing.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Schedule(value, value, "constant")
    if not isinstance(value, Mapping):
        raise InputError(f"expected a number or a schedule {{from, to, shape, until}}, got {value!r}")
    fields = dict(cast("Mapping[str, Any]", value))
    for key in fields:
        if key not in _KEYS:
            raise InputError(f"schedule: unknown key {key!r}; {nearest(str(key), _KEYS)}")
    for key in ("from", "to"):
        if key not in fields:
            raise InputError(f"schedule: {key!r} is missing; a schedule has from, to, shape and until")
    fields["from_"] = fields.pop("from")
    return Schedule(**fields)
