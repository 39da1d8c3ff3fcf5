"""What models and data agree on about pixels: sizes, and published means and deviations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from abkd.errors import InputError

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def size_pair(what: str, value: Sequence[int] | int | None) -> tuple[int, int] | None:
    """An image size as (height, width); a single number is the side of a square.

    Raises:
        InputError: not one or two positive whole numbers.
    """
    if value is None:
        return None
    pair: tuple[object, ...] = (value, value) if isinstance(value, int) else tuple(value)
    height, width = pair if len(pair) == 2 else (None, None)
    if not (_whole(height) and _whole(width)):
        raise InputError(f"{what}: expected a positive whole number or (height, width), got {value!r}")
    return height, width


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
