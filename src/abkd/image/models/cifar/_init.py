"""First weights, as the published CIFAR networks have them."""

from __future__ import annotations

from torch import nn


def init_fan_out(module: nn.Module) -> None:
    """Convolutions: normal, variance 2 / fan-out (He et al. 2015, eq. 14). Biases of convolutions: zero."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def init_linear(module: nn.Module, std: float) -> None:
    """Linear layers: normal with this standard deviation, biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0.0, std)
            nn.init.zeros_(part.bias)
