"""A divergence as a loss on tensors. Shapes: B batch, S sequence, V classes or vocabulary, (...) any leading axes."""

from abkd.losses._eager import divergence_loss
from abkd.losses._gradient_scale import gradient_scale
from abkd.losses._module import ABKDLoss

__all__ = ["ABKDLoss", "divergence_loss", "gradient_scale"]
