"""The walk over blocks of tokens that computes a loss and its gradients without tokens x vocabulary.

Shapes: N tokens, of which n count; H width; V classes that are compared; M tokens in a block.
For each block: both models' logits, the pointwise part (in place, on a few rows at a time, so that they stay in the
cache), and the two products that take the gradient back to hidden states and head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from abkd.divergences import Divergence
from abkd.losses._compiled import Rows
from abkd.losses._rows import (
    Form,
    adjusted,
    adjusted_slope,
    computed_in,
    passes,
    power_of_two,
    rows_of_settings,
    scalars_of,
)
from abkd.losses._sparse import SparseBlock, SparseForm, proportional_logits, sparse_rows
from abkd.losses._targets import DenseTargets, HiddenTargets, SparseTargets, Targets

_COMPILED_LOGITS = 1 << 20
"""Logits in one call of compiled code on a CPU."""

_SLICE = 8192
"""Classes in one product of a half-precision head gradient, before it is added up in float32."""

Adjustment = tuple[float | None, float | None]
"""Logit scale and softcap, None where they change nothing."""


@dataclass(frozen=True)
class Job:
    """All that a walk is told, apart from the student's tensors. Targets have one leading axis, N."""

    divergence: Divergence | None
    """Settings that are tensors have shape () or (N, 1)."""
    teacher: Targets | None
    labels: Tensor | None
    """(N,), -100 where there is none."""
    index: Tensor | None
    """(n,), the tokens that count; None for all."""
    tokens: int
    """n."""
    classes: int
    """V."""
    temperature: float
    adjustment: Adjustment
    log_floor: float | None
    shared: bool
    sparse: SparseForm | None
    rows: Rows
    backend: str
    chunk_size: int
    vocab_chunk_size: int | None = None

    def settings(self, tokens: Tensor | slice) -> Divergence | None:
        """The divergence with the settings of these tokens, (M, 1)."""
        return None if self.divergence is None else rows_of_settings(self.divergence, tokens)

    def blocks(self) -> Iterator[tuple[slice, Tensor | slice]]:
        """For each block its place among the n tokens, and among all N."""
        for start in range(0, self.tokens, self.chunk_size):
            place = slice(start, min(start + self.chunk_size, self.tokens))
            yield place, (place if self.index is None else self.index[place])


class Student(NamedTuple):
    """The student's tensors: hidden (N, H), weight (>= V, H), bias (>= V,) or None."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


class Outcome(NamedTuple):
    """What a walk gives. Values are of each of the n tokens, not weighted; gradients are None where not asked for."""

    divergence: Tensor
    cross_entropy: Tensor
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None]
    """Those of the head in float32 (or float64), as they were added up."""


def rows_at_once(job: Job, device: torch.device) -> int:
    """Rows in one call of the backend: the block, or, as each number is compiled for, of compiled code up to 256 on a
    CPU and elsewhere the block filled up to a power of two where all tokens make up less than one.
    """
    if job.backend != "compiled":
        return max(1, min(job.chunk_size, job.tokens))
    if device.type == "cpu":
        return min(256, max(8, power_of_two(_COMPILED_LOGITS // job.classes)))
    return min(job.chunk_size, 1 << (max(1, job.tokens) - 1).bit_length())


def walk(job: Job, student: Student, kd_weight: Tensor, ce_weight: Tensor, wants: tuple[bool, bool, bool]) -> Outcome:
    """Values of each token, and the gradients of their weighted sum.

    Args:
        job: the rest of the arguments.
        student: its tensors.
        kd_weight: (n,), of the divergence of each token.
        ce_weight: (n,), of its cross-entropy; 0 without a label.
        wants: whether the gradient of hidden, weight and bias is wanted.
    """
    dtype = computed_in(student.hidden)
    collected = Gradients(student, job.classes, wants, dtype)
    divergence, cross_entropy = (kd_weight.new_zeros(job.tokens) for _ in range(2))
    pointwise = _Pointwise(job, student, any(wants), dtype)
    for place, tokens in job.blocks():
        hidden = student.hidden[tokens]
        logits = pointwise.project(hidden)
        weights = kd_weight[place, None], ce_weight[place, None]
        divergence[place], cross_entropy[place] = pointwise.run(logits, tokens, *weights)
        collected.add(tokens, hidden, logits)
    return Outcome(divergence, cross_entropy, collected.finished())


class Gradients:
    """The gradients of hidden states, weight and bias, added up block by block in float32 (or float64)."""

    def __init__(self, student: Student, classes: int, wants: tuple[bool, bool, bool], dtype: torch.dtype) -> None:
        self._weight, self._classes, self._dtype = student.weight[:classes], classes, dtype
        for_hidden, for_weight, for_bias = wants
        self._hidden_grad = torch.zeros_like(student.hidden) if for_hidden else None
        self._weight_grad = torch.empty_like(student.weight, dtype=dtype) if for_weight else None
        self._written = False
        bias = student.bias
        self._bias_grad = torch.zeros_like(bias, dtype=dtype) if for_bias and bias is not None else None

    def add(self, tokens: Tensor | slice, hidden: Tensor, slope: Tensor) -> None:
        """The share of a block: its hidden states (M, H), and the gradient in its logits (M, V)."""
        if self._hidden_grad is not None:
            if isinstance(tokens, slice):
                torch.mm(slope, self._weight, out=self._hidden_grad[tokens])
            else:
                self._hidden_grad[tokens] = torch.mm(slope, self._weight)
        if self._weight_grad is not None:
            before = 1 if self._written else 0
            if slope.dtype == self._weight_grad.dtype:
                self._weight_grad[: self._classes].addmm_(slope.t(), hidden, beta=before)
            else:
                for start in range(0, self._classes, _SLICE):
                    stop = min(start + _SLICE, self._classes)
                    share = _product(slope[:, start:stop].t(), hidden)
                    part = self._weight_grad[start:stop]
                    _ = part.add_(share) if self._written else part.copy_(share)
            self._written = True
        if self._bias_grad is not None:
            self._bias_grad[: self._classes] += slope.sum(0, dtype=self._bias_grad.dtype)

    def add_tiles(self, tokens: Tensor | slice, hidden: Tensor, slopes: Iterable[tuple[slice, Tensor]]) -> None:
        """The share of a block: its hidden states (M, H), and the gradient in its logits, tile by tile (M, C)."""
        at_hidden = torch.zeros_like(hidden, dtype=self._dtype)
        for classes, slope in slopes:
            if self._hidden_grad is not None:
                at_hidden += torch.mm(slope, self._weight[classes])
            if self._weight_grad is not None:
                if not self._written:
                    self._weight_grad.zero_()
                    self._written = True
                self._weight_grad[classes] += _product(slope.t(), hidden)
            if self._bias_grad is not None:
                self._bias_grad[classes] += slope.sum(0, dtype=self._bias_grad.dtype)
        if self._hidden_grad is not None:
            self._hidden_grad[tokens] = at_hidden.to(hidden.dtype)

    def finished(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of hidden states, weight and bias."""
        if self._weight_grad is not None:
            self._weight_grad[self._classes if self._written else 0 :] = 0
        return self._hidden_grad, self._weight_grad, self._bias_grad


def _product(a: Tensor, b: Tensor) -> Tensor:
    """`a b`; of float16 in float32, since a sum over tokens may exceed 65504."""
    if a.dtype != torch.float16:
        return torch.mm(a, b)
    return torch.mm(a, b, out_dtype=torch.float32) if _widens(a.device) else torch.mm(a.float(), b.float())


def _widens(device: torch.device) -> bool:
    """Whether products of half precision can be had in float32: on NVIDIA's devices from torch 2.8 on."""
    return device.type == "cuda" and torch.version.hip is None and hasattr(torch.ops.aten.mm, "dtype")


class _Pointwise:
    """From hidden states to values and the gradient in the logits, with buffers that serve every block."""

    def __init__(self, job: Job, student: Student, gradient: bool, dtype: torch.dtype) -> None:
        self._job, self._dtype, self._gradient = job, dtype, gradient
        self._weight = student.weight[: job.classes]
        self._bias = None if student.bias is None else student.bias[: job.classes]
        self._rows = rows_at_once(job, student.hidden.device)
        block = min(job.chunk_size, job.tokens)
        self._capacity = -(-block // self._rows) * self._rows if job.backend == "compiled" else block
        like = student.hidden
        self._student = torch.empty(self._capacity, job.classes, dtype=like.dtype, device=like.device)
        teacher = job.teacher
        self._teacher = None
        teacher_adjustment: Adjustment = (None, None)
        self._sparse = teacher if isinstance(teacher, SparseTargets) else None
        self._dense = teacher if isinstance(teacher, DenseTargets) else None
        self._hidden = teacher if isinstance(teacher, HiddenTargets) else None
        if self._dense is not None:
            self._teacher = self._dense.logits.new_empty(self._capacity, job.classes)
        elif self._hidden is not None:
            self._teacher = self._hidden.hidden.new_empty(self._capacity, job.classes)
            teacher_adjustment = adjustment(self._hidden.logit_scale, self._hidden.softcap)
        elif job.sparse is not None and job.sparse.tail == "proportional":
            self._teacher = like.new_empty(self._capacity, job.classes, dtype=dtype)
        self._scalars = scalars_of(job.temperature, job.adjustment, teacher_adjustment, like)
        self._form = self._form_of(teacher_adjustment)
        scale, cap = job.adjustment
        self._adjustment = (None if scale is None else self._scalars[1]), (None if cap is None else self._scalars[2])

    def _form_of(self, teacher_adjustment: Adjustment) -> Form:
        job = self._job
        biased = self._bias is not None or (self._hidden is not None and self._hidden.bias is not None)
        return Form(
            distillation=self._teacher is not None,
            cross_entropy=job.labels is not None,
            gradient=self._gradient,
            tempered=job.temperature != 1,
            student_scaled=job.adjustment[0] is not None,
            student_capped=job.adjustment[1] is not None,
            teacher_scaled=teacher_adjustment[0] is not None,
            teacher_capped=teacher_adjustment[1] is not None,
            zeros=biased or self._hidden is None,
            log_floor=job.log_floor,
            shared=job.shared,
        )

    def project(self, hidden: Tensor) -> Tensor:
        """The student's logits, (M, V), in the buffer."""
        return project(hidden, self._weight, self._bias, self._student[: hidden.shape[0]])

    def run(
        self, logits: Tensor, tokens: Tensor | slice, kd_weight: Tensor, ce_weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Divergence and cross-entropy of each row (M,); the logits become the gradient in them."""
        labels = None if self._job.labels is None else self._job.labels[tokens].clamp(min=0).unsqueeze(-1)
        label_logits = None if labels is None else logits.gather(-1, labels).to(self._dtype)
        run = self._sparse_run if self._sparse is not None and self._teacher is None else self._dense_run
        values, log_sum = run(logits, tokens, kd_weight, ce_weight, labels)
        if label_logits is None:
            return values, torch.zeros_like(values)
        z = adjusted(label_logits, *self._adjustment).squeeze(-1)
        return values, torch.where(ce_weight.squeeze(-1) != 0, log_sum - z, 0.0)

    def _dense_run(
        self, logits: Tensor, tokens: Tensor | slice, kd_weight: Tensor, ce_weight: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        count = logits.shape[0]
        teacher = self._teacher_logits(tokens, logits)
        values, log_sums = (kd_weight.new_empty(self._capacity) for _ in range(2))
        divergence, labels = self._job.settings(tokens), None if labels is None else labels.int()
        whole = self._job.backend == "compiled"  # always the same number of rows, or it would be compiled again
        if whole:
            self._student[count:] = 0
            kd_weight, ce_weight = _padded(kd_weight, self._capacity), _padded(ce_weight, self._capacity)
            labels = None if labels is None else _padded(labels, self._capacity)
            divergence = _padded_settings(divergence, count, self._capacity)
            if teacher is not None:
                teacher[count:] = 0
        for start in range(0, count, self._rows):
            part = slice(start, start + self._rows if whole else min(start + self._rows, count))
            values[part], log_sums[part] = self._job.rows(
                self._student[part],
                None if teacher is None else teacher[part],
                kd_weight[part],
                ce_weight[part],
                None if labels is None else labels[part],
                self._scalars,
                None if divergence is None else rows_of_settings(divergence, part),
                self._form,
            )
        return values[:count], log_sums[:count]

    def _teacher_logits(self, tokens: Tensor | slice, logits: Tensor) -> Tensor | None:
        """In the buffer, whose rows beyond the block's are not looked at."""
        buffer = self._teacher
        if buffer is None:
            return None
        block = buffer[: logits.shape[0]]
        if self._hidden is not None:
            classes, bias = self._job.classes, self._hidden.bias
            project(
                self._hidden.hidden[tokens],
                self._hidden.weight[:classes],
                None if bias is None else bias[:classes],
                block,
            )
        elif self._dense is not None:
            block.copy_(self._dense.logits[tokens][:, : self._job.classes])
        elif self._sparse is not None:
            targets = SparseBlock.of(self._sparse, tokens, self._dtype)
            for part in passes(logits):
                z = adjusted(logits[part].to(self._dtype), *self._adjustment)
                block[part] = proportional_logits(z, targets.part(part), self._job.temperature)
        return buffer

    def _sparse_run(
        self, logits: Tensor, tokens: Tensor | slice, kd_weight: Tensor, ce_weight: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert self._sparse is not None
        assert self._job.sparse is not None
        targets = SparseBlock.of(self._sparse, tokens, self._dtype)
        divergence = self._job.settings(tokens)
        values, log_sums = (kd_weight.new_zeros(logits.shape[0]) for _ in range(2))
        for part in passes(logits):
            z = adjusted(logits[part].to(self._dtype), *self._adjustment)
            form = self._job.sparse.using(None if divergence is None else rows_of_settings(divergence, part))
            result = sparse_rows(z, targets.part(part), form, self._gradient)
            values[part] = result.values
            if labels is not None:
                log_sums[part] = torch.logsumexp(z, -1)
            if result.gradient is not None:
                gradient = result.gradient.mul_(kd_weight[part])
                if labels is not None:
                    gradient += torch.softmax(z, -1).mul_(ce_weight[part])
                    gradient.scatter_add_(-1, labels[part], -ce_weight[part])
                slope = adjusted_slope(z, *self._adjustment)
                logits[part] = gradient if slope is None else gradient.mul_(slope)
        return values, log_sums


def adjustment(scale: float, softcap: float | None) -> Adjustment:
    """Scale and cap with None where they change nothing."""
    return None if scale == 1 else float(scale), softcap


def project(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """`hidden weight^T + bias`, (M, V), into `out`."""
    if bias is None:
        return torch.mm(hidden, weight.t(), out=out)
    return torch.addmm(bias, hidden, weight.t(), out=out)


def _padded(value: Tensor, rows: int) -> Tensor:
    return torch.cat([value, value.new_zeros(rows - value.shape[0], 1)]) if value.shape[0] < rows else value


def _padded_settings(divergence: Divergence | None, count: int, rows: int) -> Divergence | None:
    if divergence is None or count == rows:
        return divergence
    return divergence.with_settings(
        lambda value: (
            torch.cat([value, value[-1:].expand(rows - count, 1)])
            if isinstance(value, Tensor) and value.dim()
            else value
        )
    )
