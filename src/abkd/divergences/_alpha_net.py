"""The larger of two alpha-divergences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._arithmetic import alpha_beta_f, alpha_beta_u
from abkd.divergences._base import Divergence, checked_number


@dataclass(frozen=True, eq=False)
class AlphaNet(Divergence):
    """In each row, the larger of two alpha-divergences, `max(A_low, A_high)`, `A_a = AlphaBeta(a, 1 - a)`.

    One order punishes the student for missing mass, the other for inventing it. (The published version also clips
    the importance weights p/q in the gradient; this one keeps the exact gradient.)

    Args:
        low: the lower order; the published -1 is infinite where the teacher rules out a class.
        high: the higher order; 1 is forward KL.

    Range: [0, inf). Infinite where the teacher rules out a class and low <= 0, or the student and high >= 1.

    Raises:
        InputError: low not below high.

    References:
        Wang et al. (2021), AlphaNet, arXiv 2102.07954, eq. 8.
    """

    low: float = -1.0
    high: float = 1.0
    key: ClassVar[str] = "alpha_net"

    def __post_init__(self) -> None:
        high = float(checked_number(self, "high", self.high, "of any size", math.isfinite))
        low = checked_number(self, "low", self.low, f"below high = {high:g}", lambda value: value < high)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def name(self) -> str:
        return f"AlphaNet ({self.low:g}, {self.high:g})"

    @property
    def separable(self) -> bool:
        return False

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        return self.low > 0, self.high < 1

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        low, high = (alpha_beta_f(lp, lq, x, order, 1 - order) for order in (self.low, self.high))
        return torch.where(_exceeds(high, low), high, low)

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return self.rows(lp, lq, x)[1]

    def rows(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (alpha_beta_f(lp, lq, x, order, 1 - order) for order in (self.low, self.high))
        order_high = _exceeds(high, low)
        value = torch.where(order_high, high, low).sum(-1)
        u = torch.where(order_high, *(alpha_beta_u(lp, lq, x, order, 1 - order) for order in (self.high, self.low)))
        return value, u


def _exceeds(a: Tensor, b: Tensor) -> Tensor:
    """Whether the row sum of `a` exceeds that of `b`, (..., 1)."""
    return a.sum(-1, keepdim=True) > b.sum(-1, keepdim=True)
