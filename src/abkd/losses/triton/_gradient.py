# pyright: basic, reportArgumentType=false, reportOperatorIssue=false
# ruff: noqa: D403, RUF059
"""Kernel 3: u again, pulled back to the logits, in place."""

from __future__ import annotations

import triton
import triton.language as tl

from abkd.losses.triton._formulas import log_pair, terms


@triton.jit
def gradient_kernel(
    student,
    teacher,
    student_stride,
    teacher_stride,
    statistics,
    rows,
    table,
    table_stride,
    u_sum,
    kd_weight,
    ce_weight,
    labels,
    own,
    temperature,
    classes,
    MIXTURE: tl.constexpr,
    DISTILLATION: tl.constexpr,
    CROSS_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """student (R, V) becomes `kd_weight (u - q u_sum) / T + ce_weight (softmax(z) - onehot(labels))`.

    own (2 or more, R) has the statistics at temperature 1.
    """
    row = tl.program_id(0).to(tl.int64)
    z_start, t_start = student + row * student_stride, teacher + row * teacher_stride
    columns = tl.arange(0, BLOCK)
    for first in range(0, classes, BLOCK):
        at = first + columns
        inside = at < classes
        z = tl.load(z_start + at, mask=inside, other=float("-inf")).to(tl.float32)
        slope = tl.zeros((BLOCK,), tl.float32)
        if DISTILLATION:
            z_teacher = tl.load(t_start + at, mask=inside, other=float("-inf")).to(tl.float32)
            top, log = tl.load(statistics + row), tl.load(statistics + rows + row)
            top_teacher, log_teacher = tl.load(statistics + 2 * rows + row), tl.load(statistics + 3 * rows + row)
            lp, lq, x, q, teacher_zero, student_zero = log_pair(
                z, z_teacher, top, top_teacher, log, log_teacher, temperature
            )
            f, u = terms(lp, lq, x, table + row * table_stride, MIXTURE)
            u = tl.where(z == float("-inf"), 0.0, u)
            slope = tl.load(kd_weight + row) * (u - q * tl.load(u_sum + row)) / temperature
        if CROSS_ENTROPY:
            softmax = tl.exp((z - tl.load(own + row)) - tl.load(own + rows + row))
            slope += tl.load(ce_weight + row) * (softmax - tl.where(at == tl.load(labels + row), 1.0, 0.0))
        tl.store(z_start + at, slope.to(student.dtype.element_ty), mask=inside)
