"""Naming the command that installs an optional package of this room, where one is missing."""

from __future__ import annotations

from contextlib import AbstractContextManager

from abkd import errors


def needed(package: str, extra: str = "image") -> AbstractContextManager[None]:
    """`abkd.errors.needed` for the room's own extra."""
    return errors.needed(package, extra)
