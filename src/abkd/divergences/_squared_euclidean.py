"""Squared Euclidean distance of probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._arithmetic import difference
from abkd.divergences._base import Divergence


@dataclass(frozen=True, eq=False)
class SquaredEuclidean(Divergence):
    """Squared Euclidean distance of probabilities, `sum_k (p - q)^2` (the Brier score of q against p).

    Range: [0, 2]. Twice `AlphaBeta(1, 1)`.

    References:
        Brier (1950), Monthly Weather Review 78(1), eq. 2.
    """

    key: ClassVar[str] = "squared_euclidean"

    @property
    def name(self) -> str:
        return "squared Euclidean"

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        return True, True

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return difference(lp, lq, x) ** 2

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return -2 * torch.exp(lq) * difference(lp, lq, x)
