"""Skewed forward KL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._arithmetic import expm1, forward_kl_f, log_ratio_to_mixture, mixture
from abkd.divergences._base import Divergence, checked_number


@dataclass(frozen=True, eq=False)
class SkewForwardKL(Divergence):
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

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        lm, to_p, _ = mixture(lp, lq, x, self.skew)
        return forward_kl_f(lp, lm, to_p)

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return -(1 - self.skew) * torch.exp(lq) * expm1(log_ratio_to_mixture(x, self.skew))
