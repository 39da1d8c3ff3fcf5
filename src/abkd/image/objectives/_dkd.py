"""Decoupled distillation, with any divergence among the other classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abkd.divergences import Divergence, ForwardKL
from abkd.image.objectives._base import Objective
from abkd.losses import divergence_loss


@dataclass(frozen=True)
class DKD(Objective):
    """The target class and the other classes weighed apart.

        loss = ce_weight * CE + kd_weight * warm-up * T^2 * ( target_weight * KL(b_t || b_s)
                                                             + other_weight * D(o_t || o_s) )

    where b is the two-way distribution (target class, all others together) and o the distribution among the others,
    both at temperature T; warm-up rises linearly from 0 to 1 over the first epochs.

    Args:
        divergence: D; forward KL is the published one, `AlphaBeta` makes it ABDKD, which replaces this term only.
        target_weight: of the target class (alpha in the paper).
        other_weight: of the other classes (beta in the paper; 8 for most CIFAR-100 pairs).
        temperature: T, above 0.
        warmup_epochs: 0 for none. It needs the `epoch` at the call.
        ce_weight, kd_weight: at least 0.

    References:
        Zhao et al. (2022), Decoupled knowledge distillation, arXiv 2203.08679, eq. 7.
    """

    divergence: Divergence = ForwardKL()
    temperature: float = 4.0
    target_weight: float = 1.0
    other_weight: float = 8.0
    warmup_epochs: float = 20.0

    def distillation(self, student: Tensor, teacher: Tensor, labels: Tensor, epoch: float | None) -> Tensor:
        def term(divergence: Divergence, s: Tensor, t: Tensor) -> Tensor:
            return divergence_loss(
                s, t, divergence, temperature=self.temperature, temperature_scaling=True, reduction="none"
            )

        student_others, teacher_others = _others(student, labels), _others(teacher, labels)
        target = term(
            ForwardKL(),
            _target_or_not(student, student_others, labels, self.temperature),
            _target_or_not(teacher, teacher_others, labels, self.temperature),
        )
        others = term(self.divergence, student_others, teacher_others)
        done = self.warmup_epochs if epoch is None else epoch
        ramp = 1.0 if self.warmup_epochs == 0 else min(done / self.warmup_epochs, 1.0)
        return ramp * (self.target_weight * target + self.other_weight * others)


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits of all classes but the target, (B, K - 1)."""
    batch, classes = logits.shape
    keep = torch.ones_like(logits, dtype=torch.bool).scatter(1, labels.unsqueeze(1), False)
    return logits[keep].view(batch, classes - 1)


def _target_or_not(logits: Tensor, others: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Two logits whose softmax at the temperature is (p_target, 1 - p_target), (B, 2)."""
    target = logits.gather(1, labels.unsqueeze(1))
    rest = temperature * torch.logsumexp(others / temperature, 1, keepdim=True)
    return torch.cat([target, rest], 1)
