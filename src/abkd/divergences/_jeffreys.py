"""Jeffreys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._arithmetic import difference
from abkd.divergences._base import Divergence


@dataclass(frozen=True, eq=False)
class Jeffreys(Divergence):
    """Jeffreys divergence, `KL(p || q) + KL(q || p) = sum_k (p - q) log(p/q)`.

    Range: [0, inf). Infinite where either rules out a class that the other allows.

    References:
        Jeffreys (1946), Proc. R. Soc. Lond. A 186, eq. 1.
    """

    key: ClassVar[str] = "jeffreys"

    @property
    def name(self) -> str:
        return "Jeffreys"

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        return False, False

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return difference(lp, lq, x) * x

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return -torch.exp(lq) * x - difference(lp, lq, x)
