"""Hinton's distillation, with any divergence."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from abkd.divergences import Divergence, ForwardKL
from abkd.image.objectives._base import Objective
from abkd.losses import divergence_loss


@dataclass(frozen=True)
class KD(Objective):
    """Divergence of the softened distributions.

        loss = ce_weight * CE(labels, q) + kd_weight * T^2 * D(softmax(z_t / T) || softmax(z_s / T))

    Args:
        divergence: D; forward KL is Hinton's, `AlphaBeta` makes it ABKD.
        temperature: T, above 0.
        temperature_scaling: whether T^2 multiplies D: Hinton's convention, which the published ABKD does not follow.
        ce_weight, kd_weight: at least 0; 0.1 and 0.9 are the weights of the CIFAR-100 benchmarks.

    References:
        Hinton, Vinyals, Dean (2015), arXiv 1503.02531, section 2; ABKD, arXiv 2505.04560.
    """

    ce_weight: float = 0.1
    kd_weight: float = 0.9
    divergence: Divergence = ForwardKL()
    temperature: float = 4.0
    temperature_scaling: bool = True

    def distillation(self, student: Tensor, teacher: Tensor, labels: Tensor, epoch: float | None) -> Tensor:
        return divergence_loss(
            student,
            teacher,
            self.divergence,
            temperature=self.temperature,
            temperature_scaling=self.temperature_scaling,
            reduction="none",
        )
