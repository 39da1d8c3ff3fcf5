"""Logit standardisation, with any divergence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abkd.divergences import Divergence, ForwardKL
from abkd.errors import InputError
from abkd.image.objectives._base import Objective
from abkd.losses import divergence_loss


@dataclass(frozen=True)
class LSD(Objective):
    """Divergence of logits that are first brought to mean 0 and deviation 1 in each image.

        loss = ce_weight * CE(labels, q) + kd_weight * T^2 * D(softmax(Z(z_t) / T) || softmax(Z(z_s) / T))
        Z(z) = (z - mean z) / (std z + 1e-7),   std with K - 1 degrees of freedom

    Args:
        divergence: D; forward KL is the published one, `AlphaBeta` makes it ABLSD (T^2 stays).
        temperature: T, above 0, in units of the logits' deviation.
        ce_weight, kd_weight: at least 0.

    References:
        Sun et al. (2024), Logit standardization in knowledge distillation, arXiv 2403.01427, eq. 11.
    """

    ce_weight: float = 0.1
    kd_weight: float = 9.0
    divergence: Divergence = ForwardKL()
    temperature: float = 2.0

    def distillation(self, student: Tensor, teacher: Tensor, labels: Tensor, epoch: float | None) -> Tensor:
        return divergence_loss(
            _standardised(student),
            _standardised(teacher),
            self.divergence,
            temperature=self.temperature,
            temperature_scaling=True,
            reduction="none",
        )


def _standardised(logits: Tensor) -> Tensor:
    if not torch.compiler.is_compiling() and not bool(logits.isfinite().all()):
        raise InputError(
            "LSD standardises logits by their mean and deviation: expected finite ones, got NaN or infinity"
        )
    centred = logits - logits.mean(1, keepdim=True)
    # A floor under the variance keeps the gradient of the root finite where all logits are equal.
    deviation = (centred.square().sum(1, keepdim=True) / (logits.shape[1] - 1)).clamp(min=1e-14).sqrt()
    return centred / (deviation + 1e-7)
