"""From one value a token to a loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from abkd.errors import InputError


def reduced(values: Tensor, mask: Tensor | None, reduction: str, num_items_in_batch: int | Tensor | None) -> Tensor:
    """Sum, mean over the tokens that count (or over `num_items_in_batch`), or the values as they are.

    Args:
        values: (...), 0 where the mask is False.
        mask: (...) bool, or None for all.
        reduction: "mean", "sum" or "none".
        num_items_in_batch: the number of tokens to divide by, counted over accumulation steps and ranks.
    """
    if num_items_in_batch is not None and reduction != "mean":
        raise InputError(f"num_items_in_batch only serves reduction='mean', got reduction={reduction!r}")
    if reduction == "none":
        return values
    total = values.sum()
    if reduction == "sum":
        return total
    if num_items_in_batch is not None:
        return total / checked_count(num_items_in_batch)
    count: Any = values.numel() if mask is None else mask.sum()
    return total / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))


def checked_count(count: Any) -> Any:
    """A number of tokens above 0, or a tensor that holds one."""
    if isinstance(count, Tensor):
        if count.numel() != 1:
            raise InputError(f"num_items_in_batch: expected one number, got a tensor of shape {tuple(count.shape)}")
        count = count.reshape(())
        if torch.compiler.is_compiling() or (bool(count.isfinite()) and bool(count > 0)):
            return count
        count = count.item()
    if isinstance(count, bool) or not isinstance(count, int | float) or not 0 < count < math.inf:
        raise InputError(f"num_items_in_batch: expected a number of tokens above 0, got {count!r}")
    return count
