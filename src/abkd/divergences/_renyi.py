"""Renyi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._alpha_beta_terms import alpha_beta_terms
from abkd.divergences._arithmetic import RULED_OUT
from abkd.divergences._base import JointDivergence, checked_number


@dataclass(frozen=True, eq=False)
class Renyi(JointDivergence):
    """Renyi divergence of a given order, `1/(order - 1) log sum_k p^order q^(1 - order)`.

    Not a sum over classes but a function of one: with `A` the alpha-divergence `AlphaBeta(order, 1 - order)`,
    `sum_k p^order q^(1 - order) = 1 + order (order - 1) A`. `f` and `u` are those of `A`.

    Args:
        order: above 0; 1 is forward KL, 1/2 is -2 log of the Bhattacharyya coefficient.

    Range: [0, inf). Infinite where the student rules out a class and order >= 1, or no class
    is left that both allow.

    Raises:
        InputError: order <= 0.

    References:
        Renyi (1961), Proc. 4th Berkeley Symposium 1, eq. 3.3; van Erven, Harremoes (2014), arXiv 1206.2459, eq. 8.
    """

    order: float = 0.5
    key: ClassVar[str] = "renyi"

    def __post_init__(self) -> None:
        order = checked_number(self, "order", self.order, "above 0", lambda value: value > 0)
        object.__setattr__(self, "order", order)

    @property
    def name(self) -> str:
        return f"Renyi of order {self.order:g}"

    @property
    def separable(self) -> bool:
        return False

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        return True, self.order < 1

    def _terms(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return alpha_beta_terms(lp, lq, x, self.order, 1 - self.order)

    def rows(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.order
        inner, u = super().rows(lp, lq, x)
        excess = a * (a - 1) * inner  # sum p^a q^(1-a) - 1
        if a == 1:
            return inner, u
        near, near_u = torch.log1p(excess) / (a - 1), a * u / (1 + excess).unsqueeze(-1)
        # Far apart the sum overflows, or cancels down to nothing; its logarithm does neither. There
        # u = -softmax(log of the summands), to which a multiple of q may be added: q - softmax.
        logs = a * lp + (1 - a) * lq
        mass = torch.logsumexp(logs, -1)
        mass = torch.where(mass < RULED_OUT / 1e6, -torch.inf, mass)  # no class that both allow
        far, far_u = mass / (a - 1), torch.exp(lq) - torch.softmax(logs, -1)
        close = excess.abs() < 0.5
        return torch.where(close, near, far), torch.where(close.unsqueeze(-1), near_u, far_u)
