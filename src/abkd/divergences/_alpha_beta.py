"""The alpha-beta-divergence, the heart of the family."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._arithmetic import Coefficient, alpha_beta_f, alpha_beta_u
from abkd.divergences._base import Divergence, checked_setting

_NAMED_POINTS = {
    (1.0, 0.0): "forward KL",
    (0.0, 1.0): "reverse KL",
    (0.5, 0.5): "4 x squared Hellinger",
    (1.0, 1.0): "half the squared Euclidean distance",
    (0.0, 0.0): "half the squared distance of logs",
}


@dataclass(frozen=True, eq=False)
class AlphaBeta(Divergence):
    """The alpha-beta-divergence, defined on the whole plane by continuity.

        D(p || q) = -1/(alpha beta) sum_k [ p^alpha q^beta - alpha/s p^s - beta/s q^s ],    s = alpha + beta

    A small alpha chases large *relative* errors, a large one large errors in probability (hardness); a small beta
    treats all classes alike, a large one follows what the student already believes (confidence). (1, 0) is
    forward KL, (0, 1) reverse KL, alpha + beta = 1 the alpha-divergences, alpha = 1 the beta-divergences. Lines
    where the formula divides by zero need no care.

    Args:
        alpha: any finite number, or a tensor that broadcasts to (..., 1) with a value per token.
        beta: likewise. beta < 0 or alpha + beta < 0 weighs the tail without bound: allowed, with a warning.

    Range: [0, inf). Infinite where the teacher rules a class out and not (alpha > 0 and s > 0), or the student
    does and not (beta > 0 and s > 0).

    Raises:
        InputError: a setting that is NaN, infinite, or no number.

    References:
        Cichocki, Cruces, Amari (2011), Entropy 13(1), eq. 19; ABKD, arXiv 2505.04560, Definition 4.1.
    """

    alpha: Coefficient
    beta: Coefficient
    key: ClassVar[str] = "alpha_beta"

    def __post_init__(self) -> None:
        for field in ("alpha", "beta"):
            object.__setattr__(self, field, checked_setting(self, field, getattr(self, field)))
        if _any(self.beta < 0) or _any(self.alpha + self.beta < 0):
            warnings.warn(
                f"{self.name}: with beta < 0 or alpha + beta < 0 the divergence weighs what the student rules out "
                "without bound, and blows up in the tail",
                stacklevel=3,
            )

    @property
    def name(self) -> str:
        if isinstance(self.alpha, Tensor) or isinstance(self.beta, Tensor):
            return "alpha-beta (per token)"
        point = (self.alpha, self.beta)
        label = f"alpha-beta ({self.alpha:g}, {self.beta:g})"
        if point in _NAMED_POINTS:
            return _NAMED_POINTS[point]
        if abs(self.alpha + self.beta - 1) < 1e-12:
            return f"{label}, the alpha-divergence of order {self.alpha:g}"
        if self.alpha == 1:
            return f"{label}, the beta-divergence of order {self.alpha + self.beta:g}"
        return label

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return alpha_beta_f(lp, lq, x, self.alpha, self.beta)

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return alpha_beta_u(lp, lq, x, self.alpha, self.beta)

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        s = self.alpha + self.beta
        return (self.alpha > 0) & (s > 0), (self.beta > 0) & (s > 0)


def _any(holds: bool | Tensor) -> bool:
    if isinstance(holds, Tensor):
        return holds.device.type != "meta" and not torch.compiler.is_compiling() and bool(holds.any())
    return holds
