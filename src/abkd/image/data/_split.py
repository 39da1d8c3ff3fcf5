"""Choosing images so that every class keeps its share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from abkd.errors import InputError


def base_and_new(num_classes: int) -> tuple[range, range]:
    """Base classes (the first half, rounded up) and new classes (the rest), as in base-to-new evaluation.

    Raises:
        InputError: fewer than 2 classes.
    """
    if num_classes < 2:
        raise InputError(f"base_and_new: expected at least 2 classes, got {num_classes}")
    base = math.ceil(num_classes / 2)
    return range(base), range(base, num_classes)


def count_of(what: str, value: float, total: int) -> int:
    """A share in (0, 1) or a count of `total` images, as a count of at least 1.

    A float of 1.0 is the share of all; a whole number is a count.

    Raises:
        InputError: not a number, not positive, or more than there are.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"{what}: expected a share in (0, 1] or a count, got {value!r}")
    if isinstance(value, float):
        if not 0 < value <= 1:
            raise InputError(f"{what}: expected a share in (0, 1] or a whole number, got {value}")
        return max(round(value * total), 1)
    if not 1 <= value <= total:
        raise InputError(f"{what}: expected a count of 1 to {total}, the images that there are; got {value}")
    return value


def stratified(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of `count` images, each class in proportion, and the positions of the rest; both ascending.

    Each class gets its share rounded down; what is left goes to the largest remainders, then to the lower
    class.

    Args:
        labels: (N,) int64.
        count: 0 to N.
        seed: which images of a class are taken.
    """
    sizes = torch.bincount(labels) if len(labels) else torch.zeros(0, dtype=torch.int64)
    exact = sizes.double() * (count / max(len(labels), 1))
    taken = exact.floor().to(torch.int64)
    order = torch.argsort(exact - taken, descending=True, stable=True)
    taken[order[: count - int(taken.sum())]] += 1
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, number in enumerate(taken.tolist()):
        members = torch.nonzero(labels == label).flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        chosen[shuffled[:number]] = True
    return torch.nonzero(chosen).flatten(), torch.nonzero(~chosen).flatten()
