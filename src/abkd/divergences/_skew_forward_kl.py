"""Skewed forward KL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from abkd.divergences._base import JointDivergence, checked_number
from abkd.divergences._mixture_terms import mixture_terms


@dataclass(frozen=True, eq=False)
class SkewForwardKL(JointDivergence):
    """Skewed forward KL, `KL(p || m)` with `m = skew p + (1 - skew) q`.

    Args:
        skew: the teacher's share of the mixture, in (0, 1); as it nears 0, D nears `ForwardKL()`.

    Range: [0, -log skew]. Always finite.

    Raises:
        InputError: skew outside (0, 1).

    References:
        DistiLLM, Ko et al. (2024), arXiv 2402.03898, eq. 4 (there with skew 0.1).
    """

    skew: float = 0.1
    key: ClassVar[str] = "skew_forward_kl"

    def __post_init__(self) -> None:
        skew = checked_number(self, "skew", self.skew, "in (0, 1); for 0 use ForwardKL()", lambda value: 0 < value < 1)
        object.__setattr__(self, "skew", skew)

    @property
    def name(self) -> str:
        return f"skewed forward KL ({self.skew:g})"

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        return True, True

    def _terms(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return mixture_terms(lp, lq, x, self.skew, 1.0, 0.0)
