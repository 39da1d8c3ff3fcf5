"""Tensors that are spread over ranks, whole."""

from __future__ import annotations

from typing import Any


def whole(value: Any) -> Any:
    """A DTensor (as FSDP2 makes a head) gathered; anything else as it is.

    Each rank has a loss of its own, so that the gradients of a gathered tensor differ. They are averaged over the
    ranks, as those of all other parameters are. (What is a sum over ranks is an activation, and the same on all.)
    """
    if not hasattr(value, "full_tensor"):
        return value
    from torch.distributed.tensor import Partial, Replicate

    how = [Replicate() if placement.is_partial() else Partial("avg") for placement in value.placements]
    return value.full_tensor(grad_placements=how)
