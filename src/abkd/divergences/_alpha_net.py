"""The larger of two alpha-divergences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._alpha_beta_terms import alpha_beta_terms
from abkd.divergences._base import JointDivergence, checked_number


@dataclass(frozen=True, eq=False)
class AlphaNet(JointDivergence):
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

    def _terms(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        low, low_u = alpha_beta_terms(lp, lq, x, self.low, 1 - self.low)
        high, high_u = alpha_beta_terms(lp, lq, x, self.high, 1 - self.high)
        high_exceeds = high.sum(-1, keepdim=True) > low.sum(-1, keepdim=True)
        return torch.where(high_exceeds, high, low), torch.where(high_exceeds, high_u, low_u)
