"""Hellinger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._arithmetic import difference
from abkd.divergences._base import Divergence


@dataclass(frozen=True, eq=False)
class Hellinger(Divergence):
    """Squared Hellinger distance, `1/2 sum_k (sqrt p - sqrt q)^2`.

    Range: [0, 1]. A quarter of `AlphaBeta(0.5, 0.5)`.

    References:
        Hellinger (1909), J. reine angew. Math. 136; Cichocki, Cruces, Amari (2011), Entropy 13(1), section 2.
    """

    key: ClassVar[str] = "hellinger"

    @property
    def name(self) -> str:
        return "squared Hellinger"

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        return True, True

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return 0.5 * difference(lp / 2, lq / 2, x / 2) ** 2

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return -0.5 * torch.exp(lq / 2) * difference(lp / 2, lq / 2, x / 2)
