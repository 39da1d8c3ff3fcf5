# pyright: basic, reportArgumentType=false
"""`dense_rows` on the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from abkd.divergences import AlphaBeta, Divergence, ForwardKL, JensenShannon, ReverseKL, SkewForwardKL, SkewReverseKL
from abkd.errors import InputError
from abkd.losses._rows import Form, adjusted, adjusted_slope
from abkd.losses.triton._gradient import gradient_kernel
from abkd.losses.triton._statistics import statistics_kernel
from abkd.losses.triton._values import values_kernel

MAX_BLOCK = 4096


def triton_rows(
    student: Tensor,
    teacher: Tensor | None,
    kd_weight: Tensor,
    ce_weight: Tensor,
    labels: Tensor | None,
    scalars: Tensor,
    divergence: Divergence | None,
    form: Form,
) -> tuple[Tensor, Tensor]:
    """As `dense_rows`, with the same arguments.

    Raises:
        InputError: float64, log_floor or support='shared', for which there is no kernel.
    """
    if form.log_floor is not None or form.shared or scalars.dtype == torch.float64:
        raise InputError("backend 'triton' has no float64, log_floor or support='shared'; use 'compiled' or 'eager'")
    scale, cap = (scalars[1] if form.student_scaled else None), (scalars[2] if form.student_capped else None)
    z = student if scale is None and cap is None else adjusted(student.float(), scale, cap)
    slope = adjusted_slope(z, scale, cap)
    if teacher is not None and (form.teacher_scaled or form.teacher_capped):
        teacher = adjusted(
            teacher.float(),
            scalars[3] if form.teacher_scaled else None,
            scalars[4] if form.teacher_capped else None,
        )
    with torch.cuda.device_of(z):  # kernels run on the current device
        values, log_sum = _run(
            z, teacher, kd_weight, ce_weight, labels, float(scalars[0]) if form.tempered else 1.0, divergence, form
        )
    if form.gradient and slope is not None:
        student.copy_(z * slope)
    return values, log_sum


def _run(
    z: Tensor,
    teacher: Tensor | None,
    kd_weight: Tensor,
    ce_weight: Tensor,
    labels: Tensor | None,
    temperature: float,
    divergence: Divergence | None,
    form: Form,
) -> tuple[Tensor, Tensor]:
    rows, classes = z.shape
    block = min(MAX_BLOCK, max(16, 1 << (classes - 1).bit_length()))
    grid = (rows,)
    statistics = torch.empty(4, rows, dtype=torch.float32, device=z.device)
    values, u_sum = torch.zeros(2, rows, dtype=torch.float32, device=z.device).unbind(0)
    distillation = teacher is not None and divergence is not None
    other = z if teacher is None else teacher
    statistics_kernel[grid](z, z.stride(0), statistics[0], statistics[1], temperature, classes, BLOCK=block)
    mixture, table, allows = (False, statistics, statistics)
    stride = 0
    if teacher is not None and divergence is not None:
        mixture, table, allows = table_of(divergence, rows, z.device)
        stride = table.stride(0) if table.shape[0] > 1 else 0
        statistics_kernel[grid](other, other.stride(0), statistics[2], statistics[3], temperature, classes, BLOCK=block)
        values_kernel[grid](
            z, other, z.stride(0), other.stride(0), statistics, rows, table, stride, allows, values, u_sum,
            temperature, classes, MIXTURE=mixture, BLOCK=block,
        )  # fmt: skip
    own = statistics
    if form.cross_entropy and temperature != 1:
        own = torch.empty_like(statistics[:2])
        statistics_kernel[grid](z, z.stride(0), own[0], own[1], 1.0, classes, BLOCK=block)
    if form.gradient:
        gradient_kernel[grid](
            z, other, z.stride(0), other.stride(0), statistics, rows, table, stride, u_sum,
            kd_weight.float().contiguous(), ce_weight.float().contiguous(),
            statistics if labels is None else labels.contiguous(), own, temperature, classes,
            MIXTURE=mixture, DISTILLATION=distillation, CROSS_ENTROPY=labels is not None, BLOCK=block,
        )  # fmt: skip
    return values, own[0] + own[1]


def table_of(divergence: Divergence, rows: int, device: torch.device) -> tuple[bool, Tensor, Tensor]:
    """Whether it is a mixture's divergence, its numbers (1 or R, columns), and what it allows to be zero (R, 2)."""
    like = torch.zeros((), dtype=torch.float32, device=device)
    if isinstance(divergence, JensenShannon):
        numbers = (divergence.beta, divergence.beta, 1 - divergence.beta)
    elif isinstance(divergence, SkewForwardKL):
        numbers = (divergence.skew, 1.0, 0.0)
    elif isinstance(divergence, SkewReverseKL):
        numbers = (1 - divergence.skew, 0.0, 1.0)
    else:
        point = {ForwardKL: AlphaBeta(1.0, 0.0), ReverseKL: AlphaBeta(0.0, 1.0)}.get(type(divergence), divergence)
        (_, table), *_ = point.in_tensors(like).tensors()
        table = table.reshape(-1, table.shape[-1]).contiguous()
        return False, table, table[:, -2:].expand(rows, 2).contiguous()
    table = torch.tensor([numbers], dtype=torch.float32, device=device)
    return True, table, torch.ones(rows, 2, dtype=torch.float32, device=device)
