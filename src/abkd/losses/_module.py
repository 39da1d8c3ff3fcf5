"""The drop-in loss of a training loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abkd.divergences import AlphaBeta
from abkd.errors import InputError
from abkd.losses import _checks
from abkd.losses._eager import divergence_loss
from abkd.losses._gradient_scale import measured_scale

_MOMENTUM = 0.99


class ABKDLoss(nn.Module):
    """Cross-entropy on the labels plus a weighted alpha-beta-divergence from the teacher.

        loss = ce_weight * CE(labels, student) + kd_weight * D_alpha,beta(teacher || student)

    Args:
        alpha, beta: of `AlphaBeta`. Starting points: (0.8, 0.2) for few classes, (0.2, 0.7) for a vocabulary.
        temperature: softens both distributions inside the divergence only; no T^2 is applied.
        ce_weight: of the cross-entropy, at least 0.
        kd_weight: of the divergence, at least 0. The published 32 of alpha-beta stands without T^2, and is not to be
            compared with the weight of a KL that is multiplied by it.
        calibrated: rescale the divergence so that its gradient in the logits is as long as forward KL's (see
            `abkd.losses.gradient_scale`), by a running mean over the training batches that have a gradient, which is
            saved with the module. Then a weight found for KL serves every (alpha, beta).

    Raises:
        InputError: settings out of range; at the call, whatever `divergence_loss` raises, and wrong labels.

    References:
        ABKD, arXiv 2505.04560, eq. 3 and Definition 4.1.

    Example:
        >>> import torch
        >>> from abkd import ABKDLoss
        >>> loss_fn = ABKDLoss(alpha=0.8, beta=0.2, kd_weight=4.0)
        >>> student = torch.randn(8, 10, requires_grad=True)
        >>> loss = loss_fn(student, torch.randn(8, 10), torch.randint(10, (8,)))
        >>> loss.backward()
    """

    def __init__(
        self,
        alpha: float | Tensor,
        beta: float | Tensor,
        *,
        temperature: float = 1.0,
        ce_weight: float = 1.0,
        kd_weight: float = 1.0,
        calibrated: bool = False,
    ) -> None:
        super().__init__()
        self.divergence = AlphaBeta(alpha, beta)
        self.temperature = _checks.check_positive("temperature", temperature)
        self.ce_weight = _checks.check_weight("ce_weight", ce_weight)
        self.kd_weight = _checks.check_weight("kd_weight", kd_weight)
        if not isinstance(calibrated, bool):
            raise InputError(f"calibrated: expected True or False, got {calibrated!r}")
        self.calibrated = calibrated
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))
        self.batches: Tensor
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss, a scalar in nats; without labels the weighted divergence alone.

        Args:
            student_logits: (..., V).
            teacher_logits: the same shape.
            labels: (...) class indices; tokens labelled -100 count in neither term.
        """
        if labels is None:
            return self.kd_weight * self._divergence(student_logits, teacher_logits, None)
        _checks.check_pair(student_logits, teacher_logits)
        labels = _checks.check_labels(labels, student_logits.shape[:-1], student_logits.shape[-1])
        counted = labels != -100
        total = nn.functional.cross_entropy(
            student_logits.reshape(-1, student_logits.shape[-1]).to(
                torch.promote_types(student_logits.dtype, torch.float32)
            ),
            labels.reshape(-1),
            ignore_index=-100,
            reduction="sum",
        )
        distillation = self._divergence(student_logits, teacher_logits, counted)
        return self.ce_weight * total / counted.sum().clamp(min=1) + self.kd_weight * distillation

    def _divergence(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None) -> Tensor:
        loss = divergence_loss(student_logits, teacher_logits, self.divergence, temperature=self.temperature, mask=mask)
        if not self.calibrated:
            return loss
        if self.training:
            scale, found = measured_scale(student_logits, teacher_logits, self.divergence, None, self.temperature, mask)
            found = found.to(self.batches.device)
            self.batches += found
            weight = (1 / self.batches).clamp(min=1 - _MOMENTUM)  # a plain mean at first, then a running one
            self.scale.lerp_(scale.to(self.scale), torch.where(found, weight, 0.0).to(self.scale))
        return self.scale.clone() * loss

    def extra_repr(self) -> str:
        return (
            f"{self.divergence.name}, temperature={self.temperature:g}, ce_weight={self.ce_weight:g}, "
            f"kd_weight={self.kd_weight:g}" + (", calibrated" if self.calibrated else "")
        )
