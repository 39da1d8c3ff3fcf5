"""What a classifier was built from, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from abkd.errors import InputError, nearest
from abkd.image._pixels import size_pair


@dataclass(frozen=True)
class ModelSpec:
    """All that `build_model` needs to make the same architecture again; it can be written as JSON.

    Attributes:
        name: a name of `build_model`, or `custom:CLASS` for a module of the user's own.
        num_classes: number of classes K.
        channels: image channels that the backbone takes; incoming images are converted.
        pretrained: whether the first weights came from the library's own download.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, the pixels are divided by it afterwards; positive.
        input_size: (height, width) to which images are resized, or None for images as they come.
        options: the further keyword arguments of the architecture.
    """

    name: str
    num_classes: int
    channels: int = 3
    pretrained: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    input_size: tuple[int, int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for what in ("num_classes", "channels"):
            value: object = getattr(self, what)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{self.name}: {what} must be a whole number of at least 1, got {value!r}")
        object.__setattr__(self, "mean", per_channel("mean", self.mean or (0.0,), self.channels))
        object.__setattr__(self, "std", per_channel("std", self.std or (1.0,), self.channels))
        if any(value <= 0 for value in self.std):
            raise InputError(f"{self.name}: std must be positive in every channel, got {self.std}")
        object.__setattr__(self, "input_size", size_pair("input_size", self.input_size))
        object.__setattr__(self, "options", {key: _plain(value) for key, value in self.options.items()})

    def to_dict(self) -> dict[str, Any]:
        """The specification as dicts, lists, strings, numbers and None."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ModelSpec:
        """The specification that `to_dict` wrote.

        Raises:
            InputError: an unknown or a missing key.
        """
        known = tuple(cls.__dataclass_fields__)
        for key in value:
            if key not in known:
                raise InputError(f"model specification: unknown key {key!r}; {nearest(key, known)}")
        for key in ("name", "num_classes"):
            if key not in value:
                raise InputError(f"model specification: {key!r} is missing")
        return cls(**value)


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON will give them back."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def per_channel(what: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    """`values` as one float a channel; a single value stands for all channels."""
    numbers = tuple(float(value) for value in values)
    if len(numbers) == 1:
        return numbers * channels
    if len(numbers) != channels:
        raise InputError(
            f"{what}: expected 1 value or {channels}, one for each channel of the model; got {len(numbers)}"
        )
    return numbers
