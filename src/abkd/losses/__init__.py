"""A divergence as a loss on tensors. Shapes: B batch, S sequence, V classes or vocabulary, (...) any leading axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from abkd.losses._eager import divergence_loss
from abkd.losses._gradient_scale import gradient_scale
from abkd.losses._module import ABKDLoss
from abkd.losses._targets import DenseTargets, HiddenTargets, SparseTargets, Targets

if TYPE_CHECKING:
    from abkd.losses._linear import linear_divergence_loss

__all__ = [
    "ABKDLoss",
    "DenseTargets",
    "HiddenTargets",
    "SparseTargets",
    "Targets",
    "divergence_loss",
    "gradient_scale",
    "linear_divergence_loss",
]


def __getattr__(name: str) -> Any:
    """The fused loss brings torch's compiler, which takes a second to import: only for those who use it."""
    if name == "linear_divergence_loss":
        from abkd.losses._linear import linear_divergence_loss

        return linear_divergence_loss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
