"""Training on the labels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from abkd.image.objectives._base import Objective


@dataclass(frozen=True)
class SFT(Objective):
    """Cross-entropy on the labels, no teacher: the baseline, and how a teacher is trained.

    loss = ce_weight * CE(labels, q)
    """

    needs_teacher: ClassVar[bool] = False

    kd_weight: float = 0.0

    def distillation(self, student: Tensor, teacher: Tensor, labels: Tensor, epoch: float | None) -> Tensor:
        return student.new_zeros(len(student))
