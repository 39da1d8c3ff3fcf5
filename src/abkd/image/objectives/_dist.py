"""Distillation of relations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from abkd.image.objectives._base import Objective


@dataclass(frozen=True)
class DIST(Objective):
    """Correlation instead of a divergence: between classes in each image, and between images in each class.

        loss = ce_weight * CE + kd_weight * T^2 * ( inter_weight * mean_i (1 - r(p_i, q_i))
                                                   + intra_weight * mean_k (1 - r(p_.k, q_.k)) )

    with r Pearson's correlation and p, q the batch of softened probabilities. The second term is one of the whole
    batch: splitting it by gradient accumulation changes the loss, and a batch of one image, which has no correlation
    between images, goes without it.

    Args:
        temperature: T, above 0.
        inter_weight, intra_weight: at least 0 (beta and gamma in the paper).
        ce_weight, kd_weight: at least 0.

    References:
        Huang et al. (2022), Knowledge distillation from a stronger teacher, arXiv 2205.10536, eq. 9.
    """

    temperature: float = 4.0
    inter_weight: float = 2.0
    intra_weight: float = 2.0

    def distillation(self, student: Tensor, teacher: Tensor, labels: Tensor, epoch: float | None) -> Tensor:
        q = F.softmax(student / self.temperature, 1)
        p = F.softmax(teacher / self.temperature, 1)
        total = self.inter_weight * (1 - _correlation(q, p))
        if len(student) > 1:
            total = total + self.intra_weight * (1 - _correlation(q.T, p.T)).mean()
        return self.temperature**2 * total


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each row of `a` with that of `b`, with the published 1e-8 below; 0 for constant rows."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)
