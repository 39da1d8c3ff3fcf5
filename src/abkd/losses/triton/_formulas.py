# pyright: basic, reportArgumentType=false, reportOperatorIssue=false
# ruff: noqa: D403
"""The divergences inside a kernel: the same arithmetic as `abkd.divergences`, on blocks of float32.

Only exponentials, logarithms and polynomials: no libdevice, so that every target and the interpreter run the same code.
"""

from __future__ import annotations

import triton
import triton.language as tl

_1_E = tl.constexpr(0.36787944117144233)
_E = tl.constexpr(2.718281828459045)
_RULED_OUT = tl.constexpr(-1e30)
_ABSENT = tl.constexpr(-60.0)


@triton.jit
def _series(t):
    """(exp(t) - 1 - t) / t^2 on [-1, 1]."""
    total = 2.80628e-6 * t + 2.535851e-5
    total = total * t + 1.9838102e-4
    total = total * t + 1.388539691e-3
    total = total * t + 8.33333968e-3
    total = total * t + 4.16667366e-2
    total = total * t + 0.166666666
    return total * t + 0.499999998


@triton.jit
def expm1(x):
    """exp(x) - 1, accurate near 0."""
    inner = tl.minimum(tl.maximum(x, -1.0), 1.0)
    outer = tl.exp(x)
    beyond = (tl.minimum(outer, _1_E) - _1_E) + (tl.maximum(outer, _E) - _E)
    return inner + inner * inner * _series(inner) + beyond


@triton.jit
def log1p(x):
    """log(1 + x), accurate near 0, for x > -1."""
    total = 1.0 + x
    return tl.log(total) + (x - (total - 1.0)) / tl.maximum(total, 1.2e-38)


@triton.jit
def decay_first(near, exp, series):
    """exp(t) - 1."""
    return near + near * near * series + (tl.minimum(exp, _1_E) - _1_E)


@triton.jit
def decay_second(t, near, exp, series, weight):
    """weight (exp(t) - 1 - t)."""
    beyond = (tl.minimum(exp, _1_E) - _1_E) - (tl.minimum(t, -1.0) + 1.0)
    return (weight * near) * (near * series) + weight * beyond


@triton.jit
def decay_mirrored(t, near, exp, series, weight):
    """weight (1 - (1 - t) exp(t))."""
    beyond = 2.0 * _1_E - tl.minimum((1.0 - t) * exp, 2.0 * _1_E)
    return (weight * near) * (near * (1.0 - (1.0 - near) * series)) + weight * beyond


@triton.jit
def log_pair(z, z_teacher, top, top_teacher, log, log_teacher, temperature):
    """lp, lq, x and q of a block, log 0 as the finite stand-in, and where one model alone rules a class out."""
    lq = (z - top) / temperature - log
    lp = (z_teacher - top_teacher) / temperature - log_teacher
    x = ((z_teacher - z) - (top_teacher - top)) / temperature - (log_teacher - log)
    student_zero = z == float("-inf")
    teacher_zero = z_teacher == float("-inf")
    both = student_zero & teacher_zero
    q = tl.exp(lq)
    lp = tl.where(both, _ABSENT, tl.where(teacher_zero, _RULED_OUT, lp))
    lq = tl.where(both, _ABSENT, tl.where(student_zero, _RULED_OUT, lq))
    x = tl.where(both, 0.0, tl.where(teacher_zero, _RULED_OUT, tl.where(student_zero, -_RULED_OUT, x)))
    return lp, lq, x, q, teacher_zero & ~both, student_zero & ~both


@triton.jit
def alpha_beta(lp, lq, x, table):
    """f and u of the alpha-beta-divergence; `table` points at a row of `Point`."""
    s, lowest, beyond = tl.load(table), tl.load(table + 1), tl.load(table + 2)
    inner, outer = tl.load(table + 3), tl.load(table + 4)
    per_inner, per_outer, per_reach = tl.load(table + 5), tl.load(table + 6), tl.load(table + 7)
    no_inner, no_outer, no_reach = tl.load(table + 8), tl.load(table + 9), tl.load(table + 10)
    positive = x > 0
    below, above = tl.minimum(x, 0.0), tl.maximum(x, 0.0)
    y = below - above
    near_t, far_t = inner * below - outer * above, outer * below - inner * above
    near_exp, far_exp = tl.exp(near_t), tl.exp(far_t)
    near, far = tl.maximum(near_t, -1.0), tl.maximum(far_t, -1.0)
    near_series, far_series = _series(near), _series(far)
    per_near, per_far = tl.where(positive, per_outer, per_inner), tl.where(positive, per_inner, per_outer)
    f = decay_mirrored(near_t, near, near_exp, near_series, per_near)
    f = (f + near_exp * decay_second(far_t, far, far_exp, far_series, per_far)) * per_reach + 0.5 * no_reach * y * y
    near_phi = per_near * decay_first(near, near_exp, near_series) + tl.where(positive, no_outer, no_inner) * y
    far_phi = per_far * decay_first(far, far_exp, far_series) + tl.where(positive, no_inner, no_outer) * y
    u = near_phi * tl.where(positive, tl.load(table + 13), tl.load(table + 11))
    u = u + near_exp * far_phi * tl.where(positive, tl.load(table + 14), tl.load(table + 12))
    exponent = 0.5 * (s * tl.maximum(lp, lq) + lowest * below + beyond * above)
    half = tl.exp(tl.minimum(exponent, 88.0))  # finite, so that f = u = 0 stay 0, also for classes beyond the last one
    return half * f * half, half * tl.where(positive, u, -u) * half


@triton.jit
def _forward_kl(lp, lq, x):
    """p log(p/q) - p + q."""
    positive = x > 0
    t = -tl.abs(x)
    near, exp = tl.maximum(t, -1.0), tl.exp(t)
    series = _series(near)
    f = tl.where(positive, decay_second(t, near, exp, series, 1.0), decay_mirrored(t, near, exp, series, 1.0))
    return tl.exp(tl.maximum(lp, lq)) * f


@triton.jit
def _log_ratio(x, weight):
    """log(p / m) for m = weight p + (1 - weight) q, from x = log(p / q)."""
    other = 1.0 - weight
    very_low = x < -60.0
    middle = tl.where(very_low, 0.0, x)
    plain = -log1p(other * expm1(-middle))
    far = -tl.log(weight + other * tl.exp(-middle))
    ratio = tl.where(weight < 0.5, tl.where(x > 1.0, far, plain), plain)
    low = tl.minimum(x, 0.0)
    return tl.where(very_low, low - log1p(weight * expm1(low)), ratio)


@triton.jit
def mixture(lp, lq, x, table):
    """f and u of `a KL(p || m) + b KL(q || m)` with `m = w p + (1 - w) q`; `table` points at w, a, b."""
    w, a, b = tl.load(table), tl.load(table + 1), tl.load(table + 2)
    to_p, to_q = _log_ratio(x, w), _log_ratio(-x, 1.0 - w)
    lm = tl.where(x > 0, lp - to_p, lq - to_q)
    f = a * _forward_kl(lp, lm, to_p) + b * _forward_kl(lq, lm, to_q)
    # dm/dlq = (1 - w) q; a (1 - p/m) + b (1 - q/m), and what b log(q/m) adds
    slope = -(1.0 - w) * (a * expm1(to_p) + b * expm1(to_q)) + b * to_q
    return f, tl.exp(lq) * slope


@triton.jit
def terms(lp, lq, x, table, MIXTURE: tl.constexpr):
    """f and u."""
    if MIXTURE:
        f, u = mixture(lp, lq, x, table)
    else:
        f, u = alpha_beta(lp, lq, x, table)
    return f, u
