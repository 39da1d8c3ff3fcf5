"""The fused loss once its arguments are checked: reductions, autograd, and what to say when a value is not finite."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from abkd.errors import InfiniteDivergenceError, InputError
from abkd.losses._attach import attached, scaled
from abkd.losses._checks import describe_token
from abkd.losses._eager import Reduction, explain_row
from abkd.losses._reduce import checked_count
from abkd.losses._rows import adjusted, computed_in
from abkd.losses._sparse import (
    SparseBlock,
    SparseForm,
    proportional_logits,
    sparse_rows,
    what_is_wrong_with_sparse,
)
from abkd.losses._targets import DenseTargets, HiddenTargets, SparseTargets, Targets
from abkd.losses._tiled import walk_tiles
from abkd.losses._walk import Adjustment, Job, Student, adjustment, walk

_HEAVIEST = 16.0
"""The weight of the heaviest token in a float16 walk: slopes of its loss from 4e-9 to 4000 then have a place."""


@dataclass(frozen=True)
class LinearLoss:
    """A checked loss, ready to be computed."""

    job: Job
    student: Student
    lead: torch.Size
    kd_weight: Tensor
    """(n,)"""
    ce_weight: Tensor
    """(n,), 0 without a label"""

    def reduced(self, reduction: Reduction, num_items_in_batch: int | Tensor | None) -> Tensor:
        student, dtype = self.student, _product_dtype(self.student.hidden)
        if reduction == "none":
            values: Tensor = _EachToken.apply(self, dtype, *student)  # pyright: ignore
            if self.job.index is None:
                return values.view(self.lead)
            return values.new_zeros(self.lead.numel()).index_put((self.job.index,), values).view(self.lead)
        kd_count = ce_count = torch.ones((), dtype=self.kd_weight.dtype, device=self.kd_weight.device)
        if num_items_in_batch is not None:
            kd_count = ce_count = kd_count * checked_count(num_items_in_batch)
        elif reduction == "mean":
            kd_count, ce_count = kd_count * max(self.job.tokens, 1), self._labelled().clamp(min=1).to(kd_count)
        wants = tuple(torch.is_grad_enabled() and value is not None and value.requires_grad for value in student)
        with torch.no_grad(), _no_autocast(student.hidden):
            kd_weight, ce_weight = self.kd_weight / kd_count, self.ce_weight / ce_count
            inputs = _in_dtype(student, dtype)
            divergence, cross_entropy, gradients, unit = self.values(inputs, kd_weight, ce_weight, wants)  # pyright: ignore
            total = (divergence * kd_weight + cross_entropy * ce_weight).sum()
        return attached(total, tuple(student), gradients, unit) if any(wants) else total

    def _labelled(self) -> Tensor:
        labels = self.job.labels
        if labels is None:
            return self.kd_weight.new_zeros(())
        return ((labels if self.job.index is None else labels[self.job.index]) != -100).sum()

    def values(
        self, inputs: Student, kd_weight: Tensor, ce_weight: Tensor, wants: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...], Tensor]:
        """Divergence and cross-entropy of each of the n tokens, and the gradients of their weighted sum over a unit.

        The unit, (), comes last. One look tells whether everything is finite, after all blocks.
        """
        steps = walk if self.job.vocab_chunk_size is None else walk_tiles
        unit = _unit(inputs.hidden.dtype, kd_weight, ce_weight)
        outcome = steps(self.job, inputs, kd_weight / unit, ce_weight / unit, wants)
        finite = outcome.divergence.isfinite() & outcome.cross_entropy.isfinite()
        if not bool(finite.all()):
            raise self._explanation(inputs, int((~finite).nonzero()[0]))
        return outcome.divergence, outcome.cross_entropy, outcome.gradients, unit

    def _explanation(self, inputs: Student, place: int) -> InputError:
        """Why the value of this one of the n tokens is not finite, by computing it again on its own."""
        job = self.job
        token = (
            torch.tensor([place], device=inputs.hidden.device) if job.index is None else job.index[place : place + 1]
        )
        where = [int(axis) for axis in torch.unravel_index(token[0], self.lead)] if self.lead else []
        z = _row_logits(inputs.hidden[token], inputs.weight, inputs.bias, job.classes, job.adjustment)
        divergence = job.settings(token)
        if divergence is not None and isinstance(job.teacher, SparseTargets) and job.sparse is not None:
            block, form = SparseBlock.of(job.teacher, token, z.dtype), job.sparse.using(divergence)
            if not _is_finite_from_sparse(z, block, form, where):
                return what_is_wrong_with_sparse(z, block, form, where)
        elif divergence is not None and job.teacher is not None:
            z_teacher = _teacher_row(job.teacher, token, job.classes).to(z.dtype)
            error = explain_row(z, z_teacher, divergence, where, job.temperature, job.log_floor, job.shared)
            if error is not None:
                return error
        if job.labels is not None and bool((z == torch.inf).any() | z.isnan().any() | (z == -torch.inf).all()):
            return InputError(f"student logits: expected finite logits, got NaN or infinity at {describe_token(where)}")
        label = -100 if job.labels is None else int(job.labels[token])
        if label >= 0 and bool(z[0, label] == -torch.inf):
            return InfiniteDivergenceError(
                f"the cross-entropy is infinite at {describe_token(where)}: the student rules out the label {label}; "
                "label it -100, or mask the token"
            )
        return InfiniteDivergenceError(
            f"the divergence overflows {z.dtype} at {describe_token(where)}: student and teacher are too far apart "
            "for these exponents. Use float64, raise log_floor (such as -30.0), or choose milder settings"
        )


class _EachToken(torch.autograd.Function):
    """The weighted value of each token; the backward pass, which alone knows their weights, walks once more."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, loss: LinearLoss, dtype: torch.dtype, hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.loss, ctx.dtype = loss, dtype
        ctx.save_for_backward(hidden, weight, bias)
        with _no_autocast(hidden):
            inputs = _in_dtype(Student(hidden, weight, bias), dtype)
            divergence, cross_entropy, _, _ = loss.values(inputs, loss.kd_weight, loss.ce_weight, (False, False, False))
        return divergence * loss.kd_weight + cross_entropy * loss.ce_weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        student, loss, wants = Student(*ctx.saved_tensors), ctx.loss, tuple(ctx.needs_input_grad[2:])
        with _no_autocast(student.hidden):
            inputs = _in_dtype(student, ctx.dtype)
            _, _, gradients, unit = loss.values(inputs, loss.kd_weight * outer[0], loss.ce_weight * outer[0], wants)
        return (
            None,
            None,
            *(
                None if gradient is None else scaled(gradient, unit, source.dtype)
                for source, gradient in zip(ctx.saved_tensors, gradients, strict=True)
            ),
        )


def _unit(dtype: torch.dtype, kd_weight: Tensor, ce_weight: Tensor) -> Tensor:
    """What a walk divides weights by, (): float16 has no room for 1 / tokens, nor for a gradient scaler's 65536."""
    if dtype != torch.float16:
        return torch.ones((), device="cpu")  # where it can be looked at for nothing
    return torch.cat([kd_weight, ce_weight, kd_weight.new_full((1,), 1e-30)]).abs().amax() / _HEAVIEST


def token_weights_of(
    job: Job, hidden: Tensor, kd: float, ce: float, token_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The weights (n,) of the divergence and of the cross-entropy of each token that counts."""
    options: Any = {"dtype": computed_in(hidden), "device": hidden.device}
    kd_weight = torch.full((job.tokens,), kd if job.teacher is not None else 0.0, **options)
    ce_weight = torch.full((job.tokens,), ce if job.labels is not None else 0.0, **options)
    if token_weights is not None:
        flat = token_weights.detach().flatten().to(kd_weight)
        flat = flat if job.index is None else flat[job.index]
        kd_weight, ce_weight = kd_weight * flat, ce_weight * flat
    if job.labels is not None:
        labels = job.labels if job.index is None else job.labels[job.index]
        ce_weight = torch.where(labels != -100, ce_weight, 0.0)
    return kd_weight, ce_weight


def _row_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, classes: int, how: Adjustment) -> Tensor:
    """The logits (1, V) of one token, as the head means them."""
    z = torch.nn.functional.linear(hidden, weight[:classes], None if bias is None else bias[:classes])
    return adjusted(z.to(computed_in(z)), *how)


def _teacher_row(teacher: Targets, token: Tensor, classes: int) -> Tensor:
    if isinstance(teacher, DenseTargets):
        return teacher.logits[token][:, :classes]
    assert isinstance(teacher, HiddenTargets)
    how = adjustment(teacher.logit_scale, teacher.softcap)
    return _row_logits(teacher.hidden[token], teacher.weight, teacher.bias, classes, how)


def _is_finite_from_sparse(z: Tensor, block: SparseBlock, form: SparseForm, where: list[int]) -> bool:
    """Whether the divergence of one row from its sparse targets is."""
    if form.tail != "proportional":
        return bool(sparse_rows(z, block, form, False).values.isfinite())
    teacher = proportional_logits(z, block, form.temperature)
    return explain_row(z, teacher, form.divergence, where, form.temperature, form.log_floor, False) is None


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """That of the student's tensors in the products: autocast's where it is on, but for float64."""
    kind = hidden.device.type
    if not torch.is_autocast_enabled(kind) or hidden.dtype == torch.float64:
        return hidden.dtype
    return torch.get_autocast_dtype(kind)


def _in_dtype(student: Student, dtype: torch.dtype) -> Student:
    bias = student.bias
    return Student(student.hidden.to(dtype), student.weight.to(dtype), None if bias is None else bias.to(dtype))


def _no_autocast(like: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(like.device.type, enabled=False)
