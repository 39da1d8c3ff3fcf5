"""Knowledge distillation with the alpha-beta-divergence, and every method it is compared with."""

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
from abkd.losses import ABKDLoss, divergence_loss, linear_divergence_loss

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
