"""What an image objective is: a loss of both models' logits and the labels."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from abkd.divergences import Divergence
from abkd.errors import InputError
from abkd.losses import _checks

Reduction = Literal["mean", "none"]


@dataclasses.dataclass(frozen=True)
class Objective(ABC):
    """`ce_weight * CE(labels, student) + kd_weight * distillation`, each sample's share of the batch's mean.

    A concrete objective writes `distillation`, a value for each image. Called with student logits (B, K), teacher
    logits (B, K) and labels (B,), it gives the mean over the batch, or (B,) with reduction "none".

    Attributes:
        needs_teacher: whether teacher logits are needed at all.
    """

    needs_teacher: ClassVar[bool] = True

    ce_weight: float = 1.0
    kd_weight: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "temperature" or field.name == "gamma":
                _checks.check_positive(f"{type(self).__name__}.{field.name}", value)
            elif field.name == "divergence":
                _checks.check_divergence(value)
            elif field.name == "temperature_scaling":
                if not isinstance(value, bool):
                    raise InputError(f"{type(self).__name__}.{field.name}: expected true or false, got {value!r}")
            else:
                _checks.check_weight(f"{type(self).__name__}.{field.name}", value)

    @abstractmethod
    def distillation(self, student: Tensor, teacher: Tensor, labels: Tensor, epoch: float | None) -> Tensor:
        """The distillation term of each image, (B,), before `kd_weight`."""

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        *,
        reduction: Reduction = "mean",
        epoch: float | None = None,
    ) -> Tensor:
        """The loss, in nats.

        Args:
            student_logits: (B, K).
            teacher_logits: (B, K); not looked at where `needs_teacher` is False.
            labels: (B,) class indices.
            reduction: "mean", a scalar, or "none", (B,).
            epoch: epochs done so far, for objectives that warm up.

        Raises:
            InputError: shapes, dtypes or labels that do not fit; no teacher logits where they are needed.
        """
        _checks.check_floating("student_logits", student_logits)
        _checks.check_choice("reduction", reduction, ("mean", "none"))
        if student_logits.dim() != 2:
            raise InputError(f"student_logits: expected shape (B, K), got {tuple(student_logits.shape)}")
        labels = _checks.check_labels(labels, student_logits.shape[:1], student_logits.shape[1], ignore_index=None)
        if student_logits.dtype != torch.float64:
            student_logits = student_logits.float()
        loss = self.ce_weight * F.cross_entropy(student_logits, labels, reduction="none")
        if self.needs_teacher:
            if teacher_logits is None:
                raise InputError(f"{type(self).__name__} needs teacher logits, got None")
            _checks.check_pair(student_logits, teacher_logits)
            if student_logits.shape[1] < 2:
                raise InputError(f"{type(self).__name__} needs at least two classes, got {student_logits.shape[1]}")
            teacher = teacher_logits.detach().to(student_logits.dtype)
            loss = loss + self.kd_weight * self.distillation(student_logits, teacher, labels, epoch)
        return loss if reduction == "none" else loss.mean()

    def describe(self) -> dict[str, Any]:
        """The settings, as plain data for a recipe or a report."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: repr(value) if isinstance(value, Divergence) else value for name, value in values.items()}
