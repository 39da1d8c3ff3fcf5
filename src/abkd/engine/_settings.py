"""A trainer's configuration from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from typing_extensions import Self

from abkd.errors import InputError, check_keys


class FromSettings:
    """What the configurations of all trainers, which are dataclasses, can be made from."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], **fixed: Any) -> Self:
        """A configuration from plain data, with every fault as this library's own error.

        Args:
            settings: keyword arguments of this class.
            **fixed: more of them, which `settings` may not name.

        Raises:
            InputError: an unknown key (the message names the nearest), a fixed one, or a value that transformers
                refuses.
        """
        check_keys(settings, [item.name for item in fields(cls) if item.init], "training")  # type: ignore[arg-type]
        for key in settings:
            if key in fixed:
                raise InputError(f"training.{key}: set elsewhere in the run's settings, not here")
        try:
            return cls(**settings, **fixed)
        except (TypeError, ValueError, ImportError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"training: {error}") from error
