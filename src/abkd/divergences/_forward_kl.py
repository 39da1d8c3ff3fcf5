"""Forward KL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from abkd.divergences._arithmetic import difference, forward_kl_f
from abkd.divergences._base import Divergence


@dataclass(frozen=True, eq=False)
class ForwardKL(Divergence):
    """Forward Kullback-Leibler divergence, `KL(p || q) = sum_k p log(p/q)`.

    Range: [0, inf). Infinite where the student rules out a class that the teacher allows: the student must cover
    all that the teacher does. The same as `AlphaBeta(1, 0)`.

    References:
        Kullback, Leibler (1951), Ann. Math. Statist. 22(1), eq. 2.4; as a distillation loss: Hinton, Vinyals, Dean
        (2015), arXiv 1503.02531, section 2.
    """

    key: ClassVar[str] = "forward_kl"

    @property
    def name(self) -> str:
        return "forward KL"

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        return True, False

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return forward_kl_f(lp, lq, x)

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return -difference(lp, lq, x)
