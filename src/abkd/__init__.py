"""Knowledge distillation with the alpha-beta-divergence, and every method it is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from abkd.divergences import (
    AKL,
    BDKD,
    AlphaBeta,
    AlphaMixture,
    AlphaNet,
    Divergence,
    ForwardKL,
    Hellinger,
    Jeffreys,
    JensenShannon,
    LogitMSE,
    Renyi,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
    SquaredEuclidean,
    TotalVariation,
    WeightedSum,
)
from abkd.errors import AbkdError, InfiniteDivergenceError, InputError
from abkd.losses import ABKDLoss, divergence_loss

if TYPE_CHECKING:
    from abkd.losses import linear_divergence_loss

__version__ = "0.1.0"

__all__ = [
    "AKL",
    "BDKD",
    "ABKDLoss",
    "AbkdError",
    "AlphaBeta",
    "AlphaMixture",
    "AlphaNet",
    "Divergence",
    "ForwardKL",
    "Hellinger",
    "InfiniteDivergenceError",
    "InputError",
    "Jeffreys",
    "JensenShannon",
    "LogitMSE",
    "Renyi",
    "ReverseKL",
    "SkewForwardKL",
    "SkewReverseKL",
    "SquaredEuclidean",
    "TotalVariation",
    "WeightedSum",
    "divergence_loss",
    "linear_divergence_loss",
]


def __getattr__(name: str) -> Any:
    """What takes long to import, when it is first asked for."""
    if name == "linear_divergence_loss":
        from abkd.losses import linear_divergence_loss

        return linear_divergence_loss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
