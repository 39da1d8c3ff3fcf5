"""Every divergence again, from its textbook definition on probabilities, in 60-digit arithmetic.

Written without a look at the library's formulas: what they are held to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mpmath as mp

import abkd

DIGITS = 60
Row = Sequence[mp.mpf]


def kl(p: Row, q: Row) -> mp.mpf:
    return mp.fsum(a * mp.log(a / b) for a, b in zip(p, q, strict=True) if a != 0)


def alpha_beta(p: Row, q: Row, alpha: mp.mpf, beta: mp.mpf) -> mp.mpf:
    """Definition 4.1 of the paper; on a singular line, next to it by 1e-25 (with digits to spare)."""
    with mp.workdps(DIGITS + 60):
        step = mp.mpf(10) ** -25
        alpha = alpha if alpha != 0 else step
        beta = beta if beta != 0 else step * mp.mpf("1.7")
        if abs(alpha + beta) < step / 10:
            beta += step * mp.mpf("2.3")
        s = alpha + beta
        total = mp.fsum(a**alpha * b**beta - alpha / s * a**s - beta / s * b**s for a, b in zip(p, q, strict=True))
        return -total / (alpha * beta)


def mixture(p: Row, q: Row, weight: float) -> list[mp.mpf]:
    w = mp.mpf(weight)
    return [w * a + (1 - w) * b for a, b in zip(p, q, strict=True)]


def jensen_shannon(p: Row, q: Row, beta: float) -> mp.mpf:
    m = mixture(p, q, beta)
    return mp.mpf(beta) * kl(p, m) + (1 - mp.mpf(beta)) * kl(q, m)


def renyi(p: Row, q: Row, order: float) -> mp.mpf:
    a = mp.mpf(order)
    return mp.log(mp.fsum(x**a * y ** (1 - a) for x, y in zip(p, q, strict=True))) / (a - 1)


def assistant(p: Row, q: Row, alpha: float, share: float) -> list[mp.mpf]:
    c, w = (1 - mp.mpf(alpha)) / 2, mp.mpf(share)
    if c == 0:
        m = [a**w * b ** (1 - w) for a, b in zip(p, q, strict=True)]
    else:
        m = [(w * a**c + (1 - w) * b**c) ** (1 / c) for a, b in zip(p, q, strict=True)]
    total = mp.fsum(m)
    return [value / total for value in m]


def logit_mse(p: Row, q: Row) -> mp.mpf:
    x = [mp.log(a) - mp.log(b) for a, b in zip(p, q, strict=True)]
    mean = mp.fsum(x) / len(x)
    return mp.fsum((value - mean) ** 2 for value in x) / len(x)


def akl_weights(p: Row, q: Row, head: float) -> tuple[mp.mpf, mp.mpf]:
    order = sorted(range(len(p)), key=lambda k: -p[k])
    mass, inside, outside = mp.mpf(0), mp.mpf(0), mp.mpf(0)
    for place, k in enumerate(order):
        mass += p[k]
        if place == 0 or mass < head:
            inside += abs(p[k] - q[k])
        else:
            outside += abs(p[k] - q[k])
    return inside / (inside + outside), outside / (inside + outside)


def bdkd_weights(p: Row, q: Row, weight: float) -> tuple[float, float]:
    h_p, h_q = (-mp.fsum(a * mp.log(a) for a in row) for row in (p, q))
    return (weight if h_p > h_q else 1.0), (weight if h_q > h_p else 1.0)


def definition(divergence: abkd.Divergence, p: Row, q: Row) -> Callable[[Row, Row], mp.mpf]:
    """The divergence as a function of (p, q), with weights that carry no gradient fixed at this p and q."""
    d = divergence
    if isinstance(d, abkd.WeightedSum):
        parts = [(weight, definition(member, p, q)) for weight, member in d.terms]
        return lambda a, b: mp.fsum(weight * part(a, b) for weight, part in parts)
    if isinstance(d, abkd.AKL | abkd.BDKD):
        forward, reverse = akl_weights(p, q, d.head) if isinstance(d, abkd.AKL) else bdkd_weights(p, q, d.weight)
        return lambda a, b: forward * kl(a, b) + reverse * kl(b, a)
    if isinstance(d, abkd.AlphaMixture):
        inner = d.divergence
        return lambda a, b: definition(inner, p, q)(a, assistant(a, b, d.alpha, d.share))
    table: dict[type, Callable[[Row, Row], mp.mpf]] = {
        abkd.AlphaBeta: lambda a, b: alpha_beta(a, b, mp.mpf(d.alpha), mp.mpf(d.beta)),
        abkd.ForwardKL: kl,
        abkd.ReverseKL: lambda a, b: kl(b, a),
        abkd.Jeffreys: lambda a, b: kl(a, b) + kl(b, a),
        abkd.JensenShannon: lambda a, b: jensen_shannon(a, b, d.beta),
        abkd.SkewForwardKL: lambda a, b: kl(a, mixture(a, b, d.skew)),
        abkd.SkewReverseKL: lambda a, b: kl(b, mixture(b, a, d.skew)),
        abkd.TotalVariation: lambda a, b: mp.fsum(abs(x - y) for x, y in zip(a, b, strict=True)) / 2,
        abkd.Hellinger: lambda a, b: mp.fsum((mp.sqrt(x) - mp.sqrt(y)) ** 2 for x, y in zip(a, b, strict=True)) / 2,
        abkd.SquaredEuclidean: lambda a, b: mp.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)),
        abkd.LogitMSE: logit_mse,
        abkd.Renyi: lambda a, b: renyi(a, b, d.order),
        abkd.AlphaNet: lambda a, b: max(alpha_beta(a, b, mp.mpf(o), 1 - mp.mpf(o)) for o in (d.low, d.high)),
    }
    return table[type(d)]


def softmax(logits: Sequence[float] | Row, temperature: float = 1.0) -> list[mp.mpf]:
    z = [mp.mpf(value) / mp.mpf(temperature) for value in logits]
    top = max(z)
    e = [mp.exp(value - top) for value in z]
    total = mp.fsum(e)
    return [value / total for value in e]


def value_and_gradient(
    divergence: abkd.Divergence, student: Sequence[float], teacher: Sequence[float], temperature: float = 1.0
) -> tuple[mp.mpf, list[mp.mpf]]:
    """The divergence of one row of logits, and its derivative in each student logit by central differences."""
    with mp.workdps(DIGITS):
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        d = definition(divergence, p, q)
        step = mp.mpf(10) ** -20
        gradient: list[mp.mpf] = []
        for k in range(len(student)):
            sides = []
            for sign in (1, -1):
                moved = [mp.mpf(value) for value in student]
                moved[k] += sign * step
                sides.append(d(p, softmax(moved, temperature)))
            gradient.append((sides[0] - sides[1]) / (2 * step))
        return d(p, q), gradient
