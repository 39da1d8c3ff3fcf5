"""The few well-conditioned building blocks that every member of the family is written with.

Symbols, here and in every member: `lp` = log p (teacher), `lq` = log q (student), `x = lp - lq`, all natural
logarithms of shape (..., V). A coefficient is a Python float or a tensor that broadcasts to (..., 1).

Everything is made of exponentials, logarithms and polynomials without branches over elements: what vectorises well,
compiled or not. `torch.expm1`, `torch.log1p` and `torch.where` cost 10 to 20 exponentials each on a CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Coefficient = float | Tensor

RULED_OUT = -1e30
"""The finite stand-in for log 0: small enough to vanish under every positive power, and never `0 * inf`."""

ABSENT = -60.0
"""Both log-probabilities of a class that both models rule out: equal, so that it adds nothing to a divergence
whatever the powers, and low enough (1e-26) not to be seen by what looks at whole rows."""

_1_E = math.exp(-1)

# (exp(t) - 1 - t) / t^2, the highest power first: on [-1, 0], and on [-1, 1]. For float32, Chebyshev fits with relative
# errors 2e-8 and 5e-9; for float64, Taylor's series.
_BELOW = {
    torch.float32: (1.37424191e-4, 1.32481796e-3, 8.30117045e-3, 4.16592554e-2, 0.166666037, 0.499999991),
    torch.float64: tuple(1 / math.factorial(n) for n in range(20, 1, -1)),
}
_AROUND = (
    2.80628e-6,
    2.535851e-5,
    1.9838102e-4,
    1.388539691e-3,
    8.33333968e-3,
    4.166673660e-2,
    0.166666666,
    0.499999998,
)


def polynomial(t: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Horner's rule, the coefficient of the highest power first."""
    total = coefficients[0] * t + coefficients[1]
    for coefficient in coefficients[2:]:
        total = total * t + coefficient
    return total


def expm1(x: Tensor) -> Tensor:
    """`exp(x) - 1`, accurate near 0: a polynomial on [-1, 1], and what the exponential adds beyond."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return torch.expm1(x)
    inner, outer = x.clamp(-1.0, 1.0), torch.exp(x)
    beyond = (outer.clamp(max=_1_E) - _1_E) + (outer.clamp(min=math.e) - math.e)
    return inner + inner * inner * polynomial(inner, _AROUND) + beyond


def log1p(x: Tensor) -> Tensor:
    """`log(1 + x)`, accurate near 0, for x > -1."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or not torch.compiler.is_compiling():
        return torch.log1p(x)
    total = 1 + x  # the compiler's torch.log1p is not vectorised; what the rounding of this sum lost is added back
    return torch.log(total) + (x - (total - 1)) / total.clamp(min=torch.finfo(x.dtype).tiny)


class Decay:
    """`exp(t)` for t <= 0 and what remains of it after 0, 1 and 2 terms of its series, each to full accuracy.

    On [-1, 0] these are polynomials; below, the clamped exponential adds the rest, and adds exactly 0 above.
    """

    def __init__(self, t: Tensor, exp: Tensor | None = None) -> None:
        self.t = t
        self.exp = torch.exp(t) if exp is None else exp
        self._near = t.clamp(min=-1.0)
        self._rest = self.exp.clamp(max=_1_E) - _1_E
        self._series = polynomial(self._near, _BELOW[t.dtype])

    def first(self, weight: Coefficient = 1.0) -> Tensor:
        """`weight (exp(t) - 1)`, in (-1, 0]."""
        return weight * (self._near + self._near * self._near * self._series + self._rest)

    def second(self, weight: Coefficient = 1.0) -> Tensor:
        """`weight (exp(t) - 1 - t)`, about t^2 / 2 near 0 and -t far from it."""
        beyond = self._rest - (self.t.clamp(max=-1.0) + 1)
        return (weight * self._near) * (self._near * self._series) + weight * beyond

    def mirrored(self, weight: Coefficient = 1.0) -> Tensor:
        """`weight (1 - (1 - t) exp(t))`, about t^2 / 2 near 0 and 1 far from it."""
        series = 1 - (1 - self._near) * self._series
        beyond = 2 * _1_E - ((1 - self.t) * self.exp).clamp(max=2 * _1_E)
        return (weight * self._near) * (self._near * series) + weight * beyond


def where_positive(x: Tensor) -> Tensor:
    """1 where x > 0, else 0, in the dtype of x."""
    return (x > 0).to(x.dtype)


def forward_kl_f(lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
    """`p log(p/q) - p + q`, the elementwise KL divergence that is never negative."""
    gap, positive = Decay(-x.abs()), where_positive(x)
    return torch.exp(torch.maximum(lp, lq)) * (gap.second(positive) + gap.mirrored(1 - positive))


def difference(lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
    """`p - q` without cancellation."""
    return torch.exp(torch.maximum(lp, lq)) * (Decay(-x.abs()).first() * -torch.sign(x))


def log_ratio_to_mixture(x: Tensor, weight: float) -> Tensor:
    """`log(p / m)` for the mixture `m = weight p + (1 - weight) q`, weight in (0, 1), from `x = log(p / q)`."""
    other = 1 - weight
    very_low = x < -60  # there exp(-x) nears the end of float32, and dividing by it first loses nothing
    middle = torch.where(very_low, 0.0, x)
    ratio = -log1p(other * expm1(-middle))
    if weight < 0.5:  # for p >> q, 1 + other * (exp(-x) - 1) would cancel down to the weight
        ratio = torch.where(x > 1, -torch.log(weight + other * torch.exp(-middle)), ratio)
    return torch.where(very_low, x - log1p(weight * expm1(torch.where(very_low, x, 0.0))), ratio)
