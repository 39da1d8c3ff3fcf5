"""Mean squared distance of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from abkd.divergences._arithmetic import ABSENT
from abkd.divergences._base import Divergence


@dataclass(frozen=True, eq=False)
class LogitMSE(Divergence):
    """Mean squared distance of centred logits, `1/V sum_k (x_k - mean x)^2` with `x = log p - log q`.

    Each model's logits are taken relative to their mean, since adding a constant to them changes no probability.
    V counts the classes that at least one of the two allows.

    Range: [0, inf). Infinite where either rules out a class that the other allows.

    References:
        Kim et al. (2021), Comparing Kullback-Leibler divergence and mean squared error loss in knowledge
        distillation, arXiv 2105.08919, eq. 3 (there the logits are not centred).
    """

    key: ClassVar[str] = "logit_mse"

    @property
    def name(self) -> str:
        return "mean squared distance of logits"

    @property
    def separable(self) -> bool:
        return False

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        return False, False

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        centred, count = _centred(lp, lq, x)
        return centred**2 / count

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        centred, count = _centred(lp, lq, x)
        return -2 * centred / count


def _centred(lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` less its mean over the classes that are there (0 for the others), and their number, (..., 1)."""
    there = ((lp != ABSENT) | (lq != ABSENT)).to(x.dtype)
    count = there.sum(-1, keepdim=True).clamp(min=1)
    return there * (x - (there * x).sum(-1, keepdim=True) / count), count
