"""Divergences from a mixture of the two distributions, with the exponentials and the logarithm they share taken once.

    f = a KL(p || m) + b KL(q || m)  (elementwise),    m = w p + (1 - w) q

Let P be the larger of p and q, E = min(p, q) / P = exp(-|x|), and c the weight of the smaller one in the mixture. Then
m = P v with `v = 1 + c (E - 1)`, and everything follows from E, v and log v: the larger one is log v away from the
mixture, the smaller one -|x| - log v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from abkd.divergences._arithmetic import Coefficient, Decay, where_positive


def mixture_terms(
    lp: Tensor, lq: Tensor, x: Tensor, weight: Coefficient, of_p: Coefficient, of_q: Coefficient
) -> tuple[Tensor, Tensor]:
    """`f` and its derivative `u` in log q, each (..., V).

    Args:
        lp: log p, finite.
        lq: log q, finite.
        x: `lp - lq`.
        weight: w, that of p in the mixture, in (0, 1). The relative error of f is a rounding / min(w, 1 - w).
        of_p: a.
        of_q: b.
    """
    positive = where_positive(x)
    other = 1 - positive
    of_smaller, of_larger = of_p * other + of_q * positive, of_q * other + of_p * positive
    c = weight * other + (1 - weight) * positive
    decay = Decay(-x.abs())
    shrink = decay.first()  # E - 1
    excess = c * shrink
    v = (1 - c) + c * decay.exp
    # log1p(excess), from v: what the rounding of v lost counts where it is near 1
    near = (v > 0.5).to(v.dtype)
    log_v = (torch.log(v) + near * ((excess - (v - 1)) / v)).clamp(max=0.0)

    to_smaller = Decay((decay.t - log_v).clamp(max=0.0), decay.exp / v)
    f = of_larger * Decay(log_v, v).second() + of_smaller * (v * to_smaller.mirrored())
    # p/m - 1 and q/m - 1: (1 - c) (E - 1) / v for the smaller one, -c (E - 1) / v for the larger
    ratio = shrink / v
    p_excess = ratio * ((1 - c) * other - c * positive)
    q_excess = ratio * ((1 - c) * positive - c * other)
    to_q = positive * decay.t - log_v
    slope = of_q * to_q - (1 - weight) * (of_p * p_excess + of_q * q_excess)
    return torch.exp(torch.maximum(lp, lq)) * f, torch.exp(lq) * slope
