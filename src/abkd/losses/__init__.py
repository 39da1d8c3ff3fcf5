"""A divergence as a loss on tensors. Shapes: B batch, S sequence, V classes or vocabulary, (...) any leading axes."""

from abkd.losses._eager import divergence_loss
from abkd.losses._gradient_scale import gradient_scale
from abkd.losses._linear import linear_divergence_loss
from abkd.losses._module import ABKDLoss
from abkd.losses._targets import DenseTargets, HiddenTargets, SparseTargets, Targets

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
