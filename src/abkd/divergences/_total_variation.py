"""Total variation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._arithmetic import difference
from abkd.divergences._base import Divergence


@dataclass(frozen=True, eq=False)
class TotalVariation(Divergence):
    """Total variation distance, `1/2 sum_k |p - q|`.

    Range: [0, 1]. Its gradient does not fade as q nears p; where p = q, the subgradient 0 is taken.

    References:
        As a distillation loss: Wen et al. (2023), f-divergence minimisation for sequence-level knowledge
        distillation, arXiv 2307.15190, eq. 8.
    """

    key: ClassVar[str] = "total_variation"

    @property
    def name(self) -> str:
        return "total variation"

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        return True, True

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return 0.5 * difference(lp, lq, x).abs()

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return -0.5 * torch.exp(lq) * torch.sign(x)
