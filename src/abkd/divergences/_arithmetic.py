"""The few well-conditioned building blocks that every member of the family is written with.

Symbols, here and in every member: `lp` = log p (teacher), `lq` = log q (student), `x = lp - lq`, all natural
logarithms of shape (..., V). A coefficient is a Python float or a tensor that broadcasts to (..., 1); with a
float the branches below are taken in Python, with a tensor they are taken elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Coefficient = float | Tensor

RULED_OUT = -1e30
"""The finite stand-in for log 0: small enough to vanish under every positive power, and never `0 * inf`."""

ABSENT = -60.0
"""Both log-probabilities of a class that both models rule out: equal, so that it adds nothing to a divergence
whatever the powers, and low enough (1e-26) not to be seen by what looks at whole rows."""

_TINY = 1e-20  # below this a coefficient is a coincidence of nodes: its next-order term is far under any rounding
_TERMS = {torch.float64: 19, torch.float32: 11}


def choose(condition: bool | Tensor, then: Callable[[], Tensor], otherwise: Callable[[], Tensor]) -> Tensor:
    """`then()` where the condition holds, else `otherwise()`; only one is computed when it is a Python bool."""
    if isinstance(condition, bool):
        return then() if condition else otherwise()
    return torch.where(condition, then(), otherwise())


def smaller(a: Coefficient, b: Coefficient) -> Coefficient:
    """The minimum of two coefficients."""
    if isinstance(a, Tensor):
        return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp(max=b)
    return b.clamp(max=a) if isinstance(b, Tensor) else min(a, b)


def larger(a: Coefficient, b: Coefficient) -> Coefficient:
    """The maximum of two coefficients."""
    return -smaller(-a, -b)


def _negligible(c: Coefficient) -> bool | Tensor:
    return c.abs() < _TINY if isinstance(c, Tensor) else abs(c) < _TINY


def _divisor(c: Coefficient) -> Coefficient:
    """`c`, or 1 where it is negligible: a quotient there is never used, but must not raise."""
    if isinstance(c, Tensor):
        return torch.where(c.abs() < _TINY, 1.0, c)
    return 1.0 if abs(c) < _TINY else c


def phi(x: Tensor, c: Coefficient) -> Tensor:
    """Box-Cox function `expm1(c x) / c`, and `x` at c = 0."""
    return choose(_negligible(c), lambda: x, lambda: torch.expm1(c * x) / _divisor(c))


def _times_exp(value: Tensor, exponent: Tensor) -> Tensor:
    """`value * exp(exponent)`, finite wherever the product is, even where the exponential alone is not."""
    half = torch.exp(exponent / 2)
    return half * value * half


def _series(x: Tensor, a: Coefficient, b: Coefficient) -> Tensor:
    """`x^2 exp[0, a x, b x]` by its Taylor series, for |a x| and |b x| below 1.

    The coefficient of x^n is h_(n-2)(a, b) / n!, with h the complete homogeneous polynomial:
    h_0 = 1 and h_(m+1) = b h_m + a^(m+1).
    """
    coefficients: list[Coefficient] = []
    h: Coefficient = 1.0
    power: Coefficient = 1.0
    for n in range(2, 2 + _TERMS[x.dtype]):
        coefficients.append(h / math.factorial(n))
        power = power * a
        h = b * h + power
    total = coefficients[-1] * torch.ones_like(x)
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total * x * x


def _mixed_node(lp: Tensor, lq: Tensor, x: Tensor, alpha: Coefficient, beta: Coefficient) -> Tensor:
    """`alpha lp + beta lq`, from the larger of the two: with alpha and beta of opposite sign it rounds less."""
    s = alpha + beta
    return torch.where(x > 0, s * lp - beta * x, s * lq + alpha * x)


def alpha_beta_f(lp: Tensor, lq: Tensor, x: Tensor, alpha: Coefficient, beta: Coefficient) -> Tensor:
    """The elementwise alpha-beta divergence `x^2 exp[A, B, C]`, A = s lq, B = alpha lp + beta lq, C = s lp.

    `exp[., ., .]` is the second divided difference of the exponential. Its three nodes are (0, alpha, s) x away
    from A. The largest of them is factored out, so that what remains decays; every singular line of the plane
    is a coincidence of nodes, which divided differences pass through.
    """
    s = alpha + beta
    low = smaller(smaller(0.0, alpha), s)
    high = larger(larger(0.0, alpha), s)
    middle = larger(smaller(0.0, alpha), smaller(larger(0.0, alpha), s))
    reach, inner = high - low, middle - low  # inner: from the largest node to the next one, where x <= 0
    near_end, far_end = smaller(inner, reach - inner), larger(inner, reach - inner)

    y = -x.abs()
    phi_near, phi_far = phi(y, near_end), phi(y, far_end)
    # y^2 exp[0, r y, reach y] for r = near_end and for r = far_end, each in the form that does not cancel
    by_near = (phi(y, reach) - phi_near) / _divisor(far_end)
    by_far = (torch.exp(far_end * y) * phi_near - phi_far) / _divisor(reach)
    # With x > 0 the order of the nodes is reversed, and `inner` becomes `reach - inner`.
    near_first = inner <= reach - inner
    positive = x > 0
    far = torch.where(positive == near_first, by_far, by_near)

    close = reach * y > -1
    node = torch.maximum(torch.maximum(s * lq, _mixed_node(lp, lq, x, alpha, beta)), s * lp)
    exponent = torch.where(close, s * lq, node)
    return _times_exp(torch.where(close, _series(x, alpha, s), far), exponent)


def alpha_beta_u(lp: Tensor, lq: Tensor, x: Tensor, alpha: Coefficient, beta: Coefficient) -> Tensor:
    """Its derivative in log q, `-q^s phi_alpha(x)`, anchored so that `phi` only ever decays."""
    s = alpha + beta
    grows = alpha * x > 0
    exponent = torch.where(grows, _mixed_node(lp, lq, x, alpha, beta), s * lq)
    value = _times_exp(phi(torch.where(grows, -x, x), alpha), exponent)
    return torch.where(grows, value, -value)


def forward_kl_f(lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
    """`p log(p/q) - p + q`, the elementwise KL divergence that is never negative."""
    return alpha_beta_f(lp, lq, x, 1.0, 0.0)


def difference(lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
    """`p - q` without cancellation."""
    return -alpha_beta_u(lp, lq, x, 1.0, 0.0)


def log_ratio_to_mixture(x: Tensor, weight: Coefficient) -> Tensor:
    """`log(p / m)` for the mixture `m = weight p + (1 - weight) q`, weight in (0, 1), from `x = log(p / q)`."""
    other = 1 - weight
    very_low = x < -60  # there exp(-x) nears the end of float32, and dividing by it first loses nothing
    middle = torch.where(very_low, 0.0, x)
    plain = -torch.log1p(other * torch.expm1(-middle))
    # For a small weight and p >> q, 1 + other * (exp(-x) - 1) would cancel down to the weight.
    ratio = choose(
        weight < 0.5,
        lambda: torch.where(x > 1, -torch.log(weight + other * torch.exp(-middle)), plain),
        lambda: plain,
    )
    return torch.where(very_low, x - torch.log1p(weight * torch.expm1(torch.where(very_low, x, 0.0))), ratio)


def mixture(lp: Tensor, lq: Tensor, x: Tensor, weight: Coefficient) -> tuple[Tensor, Tensor, Tensor]:
    """`log m`, `log(p / m)` and `log(q / m)` for the mixture `m = weight p + (1 - weight) q`."""
    to_p = log_ratio_to_mixture(x, weight)
    to_q = log_ratio_to_mixture(-x, 1 - weight)
    return torch.where(x > 0, lp - to_p, lq - to_q), to_p, to_q
