"""The elementwise alpha-beta-divergence and its derivative, on the whole plane and without a special case.

With `exp[., .]` and `exp[., ., .]` the divided differences of the exponential, and s = alpha + beta,

    f = x^2 exp[A, B, C]      u = -x exp[A, B]      A = s lq,  B = alpha lp + beta lq,  C = s lp

The nodes lie (0, alpha, s) x away from A, so every singular line of the plane is a coincidence of nodes, which
divided differences pass through. Ordered from the largest down, the gaps between them are `t = -inner |x|` and
`t' = -outer |x|` (inner and outer change places with the sign of x), and once the largest is factored out

    x^2 exp[0, t, t + t'] = ( (1 - (1 - t) e^t) / inner  +  e^t (e^t' - 1 - t') / outer ) / (inner + outer)

is a sum of two terms that are never negative: nothing cancels, at any x, for any coefficients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from abkd.divergences._arithmetic import Coefficient, Decay, where_positive

_LARGEST = {torch.float32: 88.0, torch.float64: 709.0}
"""Exponents up to which the exponential is finite."""

_TINY = 1e-20  # below this a coefficient is a coincidence of nodes: its next-order term is far under any rounding


def alpha_beta_terms(lp: Tensor, lq: Tensor, x: Tensor, alpha: Coefficient, beta: Coefficient) -> tuple[Tensor, Tensor]:
    """`f` and `u`, which share their exponentials: each (..., V).

    `lp`, `lq` and `x = lp - lq` are finite. alpha and beta are numbers or broadcast to (..., 1).
    """
    at = at_point(alpha, beta)
    return terms_at(lp, lq, x, at, below_zero=may_be_below_zero(at.s))


def terms_at(lp: Tensor, lq: Tensor, x: Tensor, at: Point, below_zero: bool) -> tuple[Tensor, Tensor]:
    """`alpha_beta_terms`, with what depends on alpha and beta alone worked out before.

    `below_zero` says whether s may be: a power of a small p = q would overflow there, and is kept finite to be taken 0
    times.
    """
    below, above = x.clamp(max=0.0), x.clamp(min=0.0)
    y, positive = below - above, where_positive(x)
    other, above_zero = 1 - positive, x > 0

    def pick(here: Coefficient, there: Coefficient) -> Coefficient:  # where x <= 0, where x > 0
        if isinstance(here, Tensor) and torch.compiler.is_compiling():
            return torch.where(above_zero, there, here)
        return here if isinstance(here, float) and here == there else here * other + there * positive

    near = Decay(at.inner * below - at.outer * above)
    far = Decay(at.outer * below - at.inner * above)
    per_near, per_far = pick(at.per_inner, at.per_outer), pick(at.per_outer, at.per_inner)
    f = (near.mirrored(per_near) + near.exp * far.second(per_far)) * at.per_reach + 0.5 * at.no_reach * y * y

    near_phi = near.first(per_near) + pick(at.no_inner, at.no_outer) * y
    far_phi = near.exp * (far.first(per_far) + pick(at.no_outer, at.no_inner) * y)
    u = near_phi * pick(at.first_below, at.first_above) + far_phi * pick(at.second_below, at.second_above)

    # Half of the largest node on either side: finite wherever the product is, even where its exponential is not.
    exponent = 0.5 * (at.s * torch.maximum(lp, lq) + at.lowest * below + at.beyond * above)
    if below_zero:
        exponent = exponent.clamp(max=_LARGEST[exponent.dtype])
    half = torch.exp(exponent)
    return half * f * half, half * (u * (positive - other)) * half


def may_be_below_zero(s: Coefficient) -> bool:
    """Whether it is a number below 0, or a tensor, which is not looked at."""
    return isinstance(s, Tensor) or s < 0


class Point(NamedTuple):
    """A point of the plane: what the terms need to know of alpha and beta."""

    s: Coefficient
    lowest: Coefficient  # the largest node is s lq + lowest x where x <= 0,
    beyond: Coefficient  # and s lp + beyond x where x > 0
    inner: Coefficient  # from the lowest to the middle one of (0, alpha, s)
    outer: Coefficient  # from the middle to the highest
    per_inner: Coefficient  # reciprocals, 0 where there is no such gap,
    per_outer: Coefficient
    per_reach: Coefficient
    no_inner: Coefficient  # which these mark with 1
    no_outer: Coefficient
    no_reach: Coefficient
    first_below: Coefficient  # what each gap has of the one between 0 and alpha, where x <= 0
    second_below: Coefficient
    first_above: Coefficient  # where x > 0
    second_above: Coefficient


def at_point(alpha: Coefficient, beta: Coefficient) -> Point:
    """What the terms need to know of alpha and beta."""
    s = alpha + beta
    lowest, highest = _smaller(_smaller(0.0, alpha), s), _larger(_larger(0.0, alpha), s)
    middle = _larger(_smaller(0.0, alpha), _smaller(_larger(0.0, alpha), s))
    inner, outer, reach = middle - lowest, highest - middle, highest - lowest
    # 0 and alpha are the lower two of the nodes, the upper two, or the ends
    lower, upper = s >= highest, s <= lowest
    inner_share = _select(_negligible(reach), 0.5, inner * _reciprocal(reach))
    outer_share = _select(_negligible(reach), 0.5, outer * _reciprocal(reach))
    of_inner = _select(lower, 1.0, _select(upper, 0.0, inner_share))
    of_outer = _select(lower, 0.0, _select(upper, 1.0, outer_share))
    return Point(
        s, lowest, highest - s, inner, outer,
        _reciprocal(inner), _reciprocal(outer), _reciprocal(reach),
        _select(_negligible(inner), 1.0, 0.0), _select(_negligible(outer), 1.0, 0.0),
        _select(_negligible(reach), 1.0, 0.0),
        of_inner, of_outer, of_outer, of_inner,
    )  # fmt: skip


def _smaller(a: Coefficient, b: Coefficient) -> Coefficient:
    if isinstance(a, Tensor):
        return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp(max=b)
    return b.clamp(max=a) if isinstance(b, Tensor) else min(a, b)


def _larger(a: Coefficient, b: Coefficient) -> Coefficient:
    return -_smaller(-a, -b)


def _select(condition: bool | Tensor, then: Coefficient, otherwise: Coefficient) -> Coefficient:
    if not isinstance(condition, Tensor):
        return then if condition else otherwise
    return torch.where(condition, then, otherwise)


def _negligible(c: Coefficient) -> bool | Tensor:
    return c.abs() < _TINY if isinstance(c, Tensor) else abs(c) < _TINY


def _reciprocal(c: Coefficient) -> Coefficient:
    if isinstance(c, Tensor):
        negligible = c.abs() < _TINY
        return torch.where(negligible, 0.0, 1 / torch.where(negligible, 1.0, c))
    return 0.0 if abs(c) < _TINY else 1 / c
