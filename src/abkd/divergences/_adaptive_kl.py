"""Forward and reverse KL in proportions that each row's own distributions set: AKL and BDKD."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._arithmetic import difference
from abkd.divergences._base import Divergence, checked_number
from abkd.divergences._forward_kl import ForwardKL
from abkd.divergences._reverse_kl import ReverseKL


class _AdaptiveKL(Divergence):
    """`w_F KL(p || q) + w_R KL(q || p)` with weights per row that carry no gradient."""

    @abstractmethod
    def weights(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of forward and of reverse KL, each (..., 1)."""

    @property
    def separable(self) -> bool:
        return False

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        return False, False

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        forward, reverse = self.weights(lp, lq, x)
        return forward * ForwardKL().f(lp, lq, x) + reverse * ReverseKL().f(lp, lq, x)

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        forward, reverse = self.weights(lp, lq, x)
        return forward * ForwardKL().u(lp, lq, x) + reverse * ReverseKL().u(lp, lq, x)


@dataclass(frozen=True, eq=False)
class AKL(_AdaptiveKL):
    """Adaptive KL: forward KL as far as the head of the teacher's distribution is wrong, reverse KL as the tail.

        D = g_head / (g_head + g_tail) KL(p || q) + g_tail / (g_head + g_tail) KL(q || p)

    where g is the sum of |p - q| over the head, or the tail; the head is the teacher's most probable classes up to
    a mass of `head`, the first one always among them. The weights carry no gradient.

    Args:
        head: the mass of the head, in (0, 1).

    Range: [0, inf). Infinite where either rules out a class that the other allows.

    Raises:
        InputError: head outside (0, 1).

    References:
        Wu et al. (2024), Rethinking Kullback-Leibler divergence in knowledge distillation for large language
        models, arXiv 2404.02657, section 4.
    """

    head: float = 0.5
    key: ClassVar[str] = "akl"

    def __post_init__(self) -> None:
        head = checked_number(self, "head", self.head, "in (0, 1)", lambda value: 0 < value < 1)
        object.__setattr__(self, "head", head)

    @property
    def name(self) -> str:
        return f"adaptive KL (head {self.head:g})"

    def weights(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        order = lp.argsort(-1, descending=True)
        gap = difference(lp, lq, x).abs().gather(-1, order)
        in_head = torch.exp(lp.gather(-1, order)).cumsum(-1) < self.head
        in_head[..., 0] = True
        head = (gap * in_head).sum(-1, keepdim=True)
        total = gap.sum(-1, keepdim=True)
        share = torch.where(total > 0, head / total.clamp(min=torch.finfo(total.dtype).tiny), 0.5)
        return share, 1 - share


@dataclass(frozen=True, eq=False)
class BDKD(_AdaptiveKL):
    """Balanced divergence: forward and reverse KL, the one weighted up whose reference is the less certain.

        D = w_F KL(p || q) + w_R KL(q || p),   w_F = weight if H(p) > H(q) else 1,   w_R = weight if H(q) > H(p) else 1

    with H the entropy. The weights carry no gradient.

    Args:
        weight: at least 1. (The official ABKD code has 3, where its comment says 2.)

    Range: [0, inf). Infinite where either rules out a class that the other allows.

    Raises:
        InputError: weight below 1.

    References:
        Amara et al. (2022), BD-KD: balancing the divergences for online knowledge distillation, arXiv 2212.12965.
    """

    weight: float = 2.0
    key: ClassVar[str] = "bdkd"

    def __post_init__(self) -> None:
        weight = checked_number(self, "weight", self.weight, "of at least 1", lambda value: value >= 1)
        object.__setattr__(self, "weight", weight)

    @property
    def name(self) -> str:
        return f"balanced KL (weight {self.weight:g})"

    def weights(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        teacher = -(torch.exp(lp) * lp).sum(-1, keepdim=True)
        student = -(torch.exp(lq) * lq).sum(-1, keepdim=True)
        one = torch.ones_like(teacher)
        return torch.where(teacher > student, self.weight, one), torch.where(student > teacher, self.weight, one)
