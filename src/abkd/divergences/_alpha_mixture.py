"""Alpha-mixture assistants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._arithmetic import difference, log_ratio_to_mixture
from abkd.divergences._base import Divergence, checked_number
from abkd.divergences._forward_kl import ForwardKL
from abkd.errors import InputError


@dataclass(frozen=True, eq=False)
class AlphaMixture(Divergence):
    """Any divergence of the teacher from an assistant between teacher and student, `D(p || r)`.

        r = m / sum_k m_k,    m^c = share p^c + (1 - share) q^c,    c = (1 - alpha) / 2

    a power mean of the two distributions: alpha = -1 mixes probabilities (with forward KL: the skewed forward KL),
    alpha = 1 mixes log-probabilities. The student is pulled through the assistant.

    Args:
        alpha: any finite number at most 1.
        share: the teacher's share, in (0, 1).
        divergence: D, of (p, r).

    Range: that of D. With alpha < 1 the assistant allows all that either model does; with alpha = 1 only what both do.

    Raises:
        InputError: alpha above 1, or share outside (0, 1).

    References:
        AMiD, Shin et al. (2025), arXiv 2510.15982, Definition 3.1, for the assistant family.
    """

    alpha: float = -1.0
    share: float = 0.1
    divergence: Divergence = field(default_factory=ForwardKL)
    key: ClassVar[str] = "alpha_mixture"

    def __post_init__(self) -> None:
        alpha = checked_number(self, "alpha", self.alpha, "of at most 1", lambda value: value <= 1)
        share = checked_number(self, "share", self.share, "in (0, 1)", lambda value: 0 < value < 1)
        if not isinstance(self.divergence, Divergence):
            raise InputError(f"AlphaMixture.divergence: expected a divergence, got {self.divergence!r}")
        object.__setattr__(self, "alpha", alpha)
        object.__setattr__(self, "share", share)

    @property
    def name(self) -> str:
        return f"{self.divergence.name} from the alpha-mixture (alpha {self.alpha:g}, share {self.share:g})"

    @property
    def separable(self) -> bool:
        return False

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        teacher, student = self.divergence.allows_zeros
        if self.alpha == 1:  # where either is zero the assistant is: only the teacher's mass there can be missed
            return True, student
        return teacher, True

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        lr, to_p, _ = self._assistant(lp, lq, x)
        return self.divergence.f(lp, lr, to_p)

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return self.rows(lp, lq, x)[1]

    def rows(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        lr, to_p, pull = self._assistant(lp, lq, x)
        value, u = self.divergence.rows(lp, lr, to_p)
        return value, pull * (u - torch.exp(lr) * u.sum(-1, keepdim=True))

    def _assistant(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`log r`, `log(p / r)`, and the derivative of `log m` in `log q`."""
        c = (1 - self.alpha) / 2
        if c == 0:
            to_p, pull = (1 - self.share) * x, torch.full_like(x, 1 - self.share)
            lm = self.share * lp + (1 - self.share) * lq
        else:
            to_p = log_ratio_to_mixture(c * x, self.share) / c
            to_q = log_ratio_to_mixture(-c * x, 1 - self.share) / c
            lm = torch.where(x > 0, lp - to_p, lq - to_q)
            pull = (1 - self.share) * torch.exp(c * to_q)
        # sum m = 1 + sum (m - p), since p sums to 1: exact to rounding where m is near p, but not where m is small
        excess = difference(lm, lp, -to_p).sum(-1, keepdim=True)
        mass = torch.where(excess > -0.5, torch.log1p(excess.clamp(min=-0.5)), torch.logsumexp(lm, -1, keepdim=True))
        return lm - mass, to_p + mass, pull
