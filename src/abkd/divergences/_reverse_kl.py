"""Reverse KL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._arithmetic import forward_kl_f
from abkd.divergences._base import Divergence


@dataclass(frozen=True, eq=False)
class ReverseKL(Divergence):
    """Reverse Kullback-Leibler divergence, `KL(q || p) = sum_k q log(q/p)`.

    Range: [0, inf). Infinite where the teacher rules out a class that the student allows: the student settles on
    modes of the teacher. The same as `AlphaBeta(0, 1)`.

    References:
        Kullback, Leibler (1951), Ann. Math. Statist. 22(1), eq. 2.4; as a distillation loss: MiniLLM, Gu et al.
        (2024), arXiv 2306.08543, eq. 1.
    """

    key: ClassVar[str] = "reverse_kl"

    @property
    def name(self) -> str:
        return "reverse KL"

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        return False, True

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return forward_kl_f(lq, lp, -x)

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return -torch.exp(lq) * x
