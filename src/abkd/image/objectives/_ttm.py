"""Transformed teacher matching, plain and weighted, with any divergence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abkd.divergences import Divergence, ForwardKL
from abkd.image.objectives._base import Objective
from abkd.losses import divergence_loss


@dataclass(frozen=True)
class TTM(Objective):
    """Divergence of the student, at temperature 1, from a power transform of the teacher.

        loss = ce_weight * CE(labels, q) + kd_weight * D(p^gamma / sum p^gamma || q),   q = softmax(z_s)

    The transform is softmax(gamma z_t): a temperature 1/gamma on the teacher alone. No T^2 is applied.

    Args:
        divergence: D; forward KL is the published one, `AlphaBeta` makes it ABTTM.
        gamma: above 0.
        ce_weight, kd_weight: at least 0; published weights depend on the pair (45 for vgg13 to vgg8).

    References:
        Zheng, Yang (2024), Knowledge distillation based on transformed teacher matching, arXiv 2402.11148, eq. 12.
    """

    kd_weight: float = 45.0
    divergence: Divergence = ForwardKL()
    gamma: float = 0.1

    def distillation(self, student: Tensor, teacher: Tensor, labels: Tensor, epoch: float | None) -> Tensor:
        return divergence_loss(student, self.gamma * teacher, self.divergence, reduction="none")


@dataclass(frozen=True)
class WTTM(TTM):
    """TTM with each image weighted by how uncertain its transformed teacher is.

        loss = ce_weight * CE(labels, q) + kd_weight * w * D(p^gamma / w || q),   w = sum_k p_k^gamma

    w runs from 1 (a one-hot teacher) to K^(1 - gamma) (a uniform one), and carries no gradient.

    Args:
        divergence: D; forward KL is the published one, `AlphaBeta` makes it ABWTTM.
        gamma: above 0.
        ce_weight, kd_weight: at least 0; published weights depend on the pair.

    References:
        Zheng, Yang (2024), arXiv 2402.11148, eq. 15.
    """

    kd_weight: float = 1.0

    def distillation(self, student: Tensor, teacher: Tensor, labels: Tensor, epoch: float | None) -> Tensor:
        weight = torch.exp(torch.logsumexp(self.gamma * torch.log_softmax(teacher, 1), 1))
        return weight * super().distillation(student, teacher, labels, epoch)
