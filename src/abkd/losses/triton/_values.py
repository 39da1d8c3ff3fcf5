# pyright: basic, reportArgumentType=false, reportOperatorIssue=false
# ruff: noqa: RUF059
"""Kernel 2: the divergence of each row, and the sum of u."""

from __future__ import annotations

import triton
import triton.language as tl

from abkd.losses.triton._formulas import log_pair, terms


@triton.jit
def values_kernel(
    student,
    teacher,
    student_stride,
    teacher_stride,
    statistics,
    rows,
    table,
    table_stride,
    allows,
    values,
    u_sum,
    temperature,
    classes,
    MIXTURE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """student, teacher (R, V), statistics (4, R) -> values (R,), inf where the divergence is, and u_sum (R,)."""
    row = tl.program_id(0).to(tl.int64)
    z_start, t_start = student + row * student_stride, teacher + row * teacher_stride
    top, log = tl.load(statistics + row), tl.load(statistics + rows + row)
    top_teacher, log_teacher = tl.load(statistics + 2 * rows + row), tl.load(statistics + 3 * rows + row)
    allows_teacher, allows_student = tl.load(allows + 2 * row), tl.load(allows + 2 * row + 1)
    columns = tl.arange(0, BLOCK)
    value = tl.zeros((BLOCK,), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    infinite = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, classes, BLOCK):
        at = first + columns
        inside = at < classes
        z = tl.load(z_start + at, mask=inside, other=float("-inf")).to(tl.float32)
        z_teacher = tl.load(t_start + at, mask=inside, other=float("-inf")).to(tl.float32)
        lp, lq, x, q, teacher_zero, student_zero = log_pair(
            z, z_teacher, top, top_teacher, log, log_teacher, temperature
        )
        f, u = terms(lp, lq, x, table + row * table_stride, MIXTURE)
        value += f
        total += tl.where(z == float("-inf"), 0.0, u)
        infinite += tl.where(teacher_zero, 1.0 - allows_teacher, 0.0) + tl.where(
            student_zero, 1.0 - allows_student, 0.0
        )
    result = tl.sum(value, 0) + (top - top) + (top_teacher - top_teacher)  # NaN where a row has no finite maximum
    tl.store(values + row, tl.where(tl.sum(infinite, 0) > 0, float("inf"), result))
    tl.store(u_sum + row, tl.sum(total, 0))
