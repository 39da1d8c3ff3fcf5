"""The pointwise part of the fused losses: from two blocks of logits to values and, in place, to gradients.

Shapes: R rows (tokens), V classes. These functions run as they are (the eager path) or through `torch.compile`; what
differs between models is data (`scalars`, the settings of the divergence), what changes the code is a `Form`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from abkd.divergences import Divergence
from abkd.divergences._arithmetic import Coefficient, log1p
from abkd.losses._pair import Pair, floored, infinite_classes, paired

_LOGITS_ON_CPU = 1 << 16
_LOGITS_ON_DEVICE = 1 << 24
"""Logits in one pass of plain operations: on a CPU, what stays in the cache (and in the allocator) between them;
elsewhere, so that no temporary takes more than 64 MB in float32."""


@dataclass(frozen=True)
class Form:
    """What a block of rows goes through: the choices that change the code, not its numbers."""

    distillation: bool
    cross_entropy: bool
    gradient: bool
    tempered: bool = False
    student_scaled: bool = False
    student_capped: bool = False
    teacher_scaled: bool = False
    teacher_capped: bool = False
    zeros: bool = True
    """Whether a class may be ruled out (a logit of -inf)."""
    log_floor: float | None = None
    shared: bool = False

    @property
    def teacher_rules(self) -> bool:
        """Whether a teacher's logit of -inf takes the class from the student too; a cap leaves none."""
        return self.shared and not self.teacher_capped


def scalars_of(
    temperature: float,
    student: tuple[float | None, float | None],
    teacher: tuple[float | None, float | None],
    like: Tensor,
) -> Tensor:
    """The numbers that `dense_rows` takes: (5,), T and the scale and cap of student and teacher."""
    numbers = [temperature, *(1.0 if value is None else value for value in (*student, *teacher))]
    return torch.tensor(numbers, dtype=computed_in(like), device=like.device)


def computed_in(*tensors: Tensor) -> torch.dtype:
    """float64 where any tensor is, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def adjusted(logits: Tensor, scale: Coefficient | None, cap: Coefficient | None) -> Tensor:
    """`cap tanh(scale z / cap)`: logits as the model's head means them."""
    if scale is not None:
        logits = logits * scale
    return logits if cap is None else cap * torch.tanh(logits / cap)


def adjusted_slope(z: Tensor, scale: Coefficient | None, cap: Coefficient | None) -> Coefficient | None:
    """The derivative of `adjusted` at its output z, or None where it is 1."""
    slope = None if cap is None else 1 - (z / cap) ** 2
    if scale is None:
        return slope
    return scale if slope is None else slope * scale


def flat_settings(divergence: Divergence, lead: torch.Size, like: Tensor) -> Divergence:
    """The divergence with tensor settings of shape () or (N, 1)."""

    def flat(value: float | Tensor) -> float | Tensor:
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        return value.reshape(()) if value.numel() == 1 else value.expand(*lead, 1).reshape(-1, 1)

    return divergence.on(torch.empty((), dtype=computed_in(like), device=like.device)).with_settings(flat)


def rows_of_settings(divergence: Divergence, rows: Tensor | slice) -> Divergence:
    """The divergence with the settings of these rows alone."""
    return divergence.with_settings(lambda value: value[rows] if isinstance(value, Tensor) and value.dim() else value)


class Compared(NamedTuple):
    """What the gradient needs to know of a block of rows, and their values."""

    values: Tensor
    """(R,), inf or NaN where something is wrong."""
    largest: Tensor
    """(R, 1), of the student's logits that are compared."""
    log: Tensor
    """(R, 1), the log of the sum of the exponentials of what they are less than it, at T."""
    own: tuple[Tensor, Tensor] | None
    """Both of all the student's logits at temperature 1, for the cross-entropy; None where they are the same."""
    u: Tensor | None
    """(R, V), the derivative in log q."""
    u_sum: Tensor | None
    """(R, 1)"""


def power_of_two(number: int) -> int:
    """The largest one that is no larger, at least 1."""
    return 1 << (max(1, number).bit_length() - 1)


def rows_in_a_pass(classes: int, device: torch.device) -> int:
    """Rows that plain operations take at once: on a CPU a power of two up to 256."""
    if device.type == "cpu":
        return min(256, power_of_two(_LOGITS_ON_CPU // classes))
    return max(1, _LOGITS_ON_DEVICE // classes)


def passes(logits: Tensor) -> Iterator[slice]:
    """The rows of (M, V), pass by pass."""
    rows = rows_in_a_pass(logits.shape[-1], logits.device)
    for start in range(0, logits.shape[0], rows):
        yield slice(start, start + rows)


def eager_rows(
    student: Tensor,
    teacher: Tensor | None,
    kd_weight: Tensor,
    ce_weight: Tensor,
    labels: Tensor | None,
    scalars: Tensor,
    divergence: Divergence | None,
    form: Form,
) -> tuple[Tensor, Tensor]:
    """`dense_rows`, on a few rows at a time."""
    values, log_sums = (kd_weight.new_empty(student.shape[0]) for _ in range(2))  # results kept apart split the heap
    for part in passes(student):
        values[part], log_sums[part] = dense_rows(
            student[part],
            None if teacher is None else teacher[part],
            kd_weight[part],
            ce_weight[part],
            None if labels is None else labels[part],
            scalars,
            None if divergence is None else rows_of_settings(divergence, part),
            form,
        )
    return values, log_sums


def dense_rows(
    student: Tensor,
    teacher: Tensor | None,
    kd_weight: Tensor,
    ce_weight: Tensor,
    labels: Tensor | None,
    scalars: Tensor,
    divergence: Divergence | None,
    form: Form,
) -> tuple[Tensor, Tensor]:
    """Divergence and log-sum-exp of each row; the student's logits become the gradient where `form` asks for it.

    Args:
        student: (R, V), overwritten by `kd_weight dD/dz + ce_weight (softmax(z) - onehot(labels))`.
        teacher: (R, V), or None without distillation.
        kd_weight: (R, 1).
        ce_weight: (R, 1), 0 without a label.
        labels: (R, 1), or None without a cross-entropy.
        scalars: (5,), from `scalars_of`.
        divergence: with settings that are numbers, or tensors of shape () or (R, 1).
        form: what to do.

    Returns:
        The divergences (R,), not weighted, inf or NaN where something is wrong, and the log-sum-exp of the student's
        logits (R,), where there is a cross-entropy.
    """
    compared = compare_rows(student, teacher, scalars, divergence, form)
    if form.gradient:
        ruling = teacher if form.teacher_rules else None
        pull_rows(student, ruling, compared, kd_weight, ce_weight, labels, scalars, form)
    return compared.values, log_sum(compared)


def log_sum(compared: Compared) -> Tensor:
    """The log-sum-exp of the student's logits at temperature 1, (R,)."""
    largest, log = compared.own or (compared.largest, compared.log)
    return (largest + log).squeeze(-1)


def compare_rows(
    student: Tensor, teacher: Tensor | None, scalars: Tensor, divergence: Divergence | None, form: Form
) -> Compared:
    """The first half of `dense_rows`, with its arguments."""
    z = _student_logits(student, scalars, form)
    if teacher is None or divergence is None:
        largest, _, log = _log_softmax(z, None)
        return Compared(z.new_zeros(z.shape[0]), largest, log, None, None, None)
    z_teacher = adjusted(
        teacher.to(z.dtype),
        scalars[3] if form.teacher_scaled else None,
        scalars[4] if form.teacher_capped else None,
    )
    own = None
    if form.cross_entropy and (form.tempered or form.shared):
        top, _, log_above = _log_softmax(z, None)
        own = top, log_above
    if form.shared:
        excluded = (z == -torch.inf) | (z_teacher == -torch.inf)
        z, z_teacher = (logits.masked_fill(excluded, -torch.inf) for logits in (z, z_teacher))
    pair, largest, log = lean_pair(z, z_teacher, scalars[0] if form.tempered else None, form.zeros)
    raised = None
    if form.log_floor is not None:
        pair, raised = floored(pair, form.log_floor)
    values, u = divergence.rows(pair.lp, pair.lq, pair.x)
    if form.zeros:
        values = values + torch.where(infinite_classes(pair, divergence), torch.inf, 0.0).amax(-1)
        u = torch.where(z == -torch.inf, 0.0, u)
    if raised is not None:
        u = torch.where(raised, 0.0, u)
    if not form.gradient:
        return Compared(values, largest, log, own, None, None)
    return Compared(values, largest, log, own, u, u.sum(-1, keepdim=True))


def pull_rows(
    student: Tensor,
    teacher: Tensor | None,
    compared: Compared,
    kd_weight: Tensor,
    ce_weight: Tensor,
    labels: Tensor | None,
    scalars: Tensor,
    form: Form,
) -> None:
    """The second half of `dense_rows`: the student's logits become the gradient."""
    z = _student_logits(student, scalars, form)
    gradient = torch.zeros_like(z[:, :1])
    if compared.u is not None and compared.u_sum is not None:
        shifted = z - compared.largest
        if teacher is not None:
            shifted = torch.where(teacher == -torch.inf, -torch.inf, shifted)
        q = torch.exp((shifted / scalars[0] if form.tempered else shifted) - compared.log)
        gradient = kd_weight * (compared.u - q * compared.u_sum)
        if form.tempered:
            gradient = gradient / scalars[0]
    if labels is not None:
        columns = torch.arange(z.shape[-1], dtype=labels.dtype, device=z.device)
        largest, log = compared.own or (compared.largest, compared.log)
        # before anything is rounded to half precision, where softmax - 1 would cancel
        gradient = gradient + ce_weight * (torch.exp((z - largest) - log) - (columns == labels).to(z.dtype))
    slope = adjusted_slope(z, scalars[1] if form.student_scaled else None, scalars[2] if form.student_capped else None)
    student.copy_(gradient if slope is None else gradient * slope)


def _student_logits(student: Tensor, scalars: Tensor, form: Form) -> Tensor:
    return adjusted(
        student.to(scalars.dtype),
        scalars[1] if form.student_scaled else None,
        scalars[2] if form.student_capped else None,
    )


def lean_pair(student: Tensor, teacher: Tensor, temperature: Tensor | None, zeros: bool) -> tuple[Pair, Tensor, Tensor]:
    """`log_pair` without its last refinements, in the form that compilers fuse.

    The difference is still one of logits, and the log-sums are still `log1p`; the rounding of the difference is not
    made up for, nor are near-equal rows normalised once more. Also the student's largest logit and log-sum, (R, 1).
    """
    student_max, lq, student_log = _log_softmax(student, temperature)
    teacher_max, lp, teacher_log = _log_softmax(teacher, temperature)
    x = (teacher - student) - (teacher_max - student_max)
    x = (x if temperature is None else x / temperature) - (teacher_log - student_log)
    lq, lp = lq - student_log, lp - teacher_log
    if not zeros:
        nowhere = torch.zeros((), dtype=torch.bool, device=x.device)
        return Pair(lp, lq, x, torch.exp(lq), nowhere, nowhere), student_max, student_log
    return paired(lp, lq, x), student_max, student_log


def _log_softmax(z: Tensor, temperature: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The largest logit (R, 1), `(z - largest) / T` (R, V), and the log of the sum of its exponentials (R, 1)."""
    largest = z.amax(-1, keepdim=True)
    shifted = z - largest if temperature is None else (z - largest) / temperature
    below = (shifted < 0).to(z.dtype)  # without the maximum, so that the rest keeps its digits
    others = (torch.exp(shifted) * below).sum(-1, keepdim=True)
    ties = (1 - below).sum(-1, keepdim=True) - 1
    return largest, shifted, log1p(others + ties)
