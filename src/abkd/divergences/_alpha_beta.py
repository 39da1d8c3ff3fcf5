"""The alpha-beta-divergence, the heart of the family."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abkd.divergences._alpha_beta_terms import (
    Point,
    alpha_beta_terms,
    at_point,
    may_be_below_zero,
    terms_at,
)
from abkd.divergences._arithmetic import Coefficient
from abkd.divergences._base import Divergence, JointDivergence, checked_setting

_NAMED_POINTS = {
    (1.0, 0.0): "forward KL",
    (0.0, 1.0): "reverse KL",
    (0.5, 0.5): "4 x squared Hellinger",
    (1.0, 1.0): "half the squared Euclidean distance",
    (0.0, 0.0): "half the squared distance of logs",
}


@dataclass(frozen=True, eq=False)
class AlphaBeta(JointDivergence):
    """The alpha-beta-divergence, defined on the whole plane by continuity.

        D(p || q) = -1/(alpha beta) sum_k [ p^alpha q^beta - alpha/s p^s - beta/s q^s ],    s = alpha + beta

    A small alpha chases large *relative* errors, a large one large errors in probability (hardness); a small beta
    treats all classes alike, a large one follows what the student already believes (confidence). (1, 0) is
    forward KL, (0, 1) reverse KL, alpha + beta = 1 the alpha-divergences, alpha = 1 the beta-divergences. Lines
    where the formula divides by zero need no care.

    Args:
        alpha: any finite number, or a tensor that broadcasts to (..., 1) with a value per token. Below 0 it weighs
            without bound what the teacher all but rules out: allowed, with a warning.
        beta: likewise, for what the student does.

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
        if _any(self.alpha < 0) or _any(self.beta < 0):
            warnings.warn(
                f"{self.name}: a negative alpha weighs what the teacher all but rules out without bound, a negative "
                "beta what the student does: the divergence blows up in the tail",
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

    def _terms(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return alpha_beta_terms(lp, lq, x, self.alpha, self.beta)

    def in_tensors(self, like: Tensor) -> Divergence:
        point = [torch.as_tensor(value).to(like) for value in at_point(self.alpha, self.beta)]
        zeros = [torch.as_tensor(value).to(like) for value in self.allows_zeros]
        columns = torch.broadcast_tensors(*(value.reshape(value.shape or (1,)) for value in (*point, *zeros)))
        kind = _BelowZero if may_be_below_zero(self.alpha + self.beta) else _AtPoint
        return kind(torch.cat(columns, -1))

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        s = self.alpha + self.beta
        return (self.alpha > 0) & (s > 0), (self.beta > 0) & (s > 0)


@dataclass(frozen=True, eq=False)
class _AtPoint(JointDivergence):
    """An alpha-beta-divergence with what depends on alpha and beta alone worked out: the numbers of a compiled form.

    `table` is (17,), or (..., 17) with a row for each token: a `Point`, and what it allows to be zero.
    """

    table: Tensor
    key: ClassVar[str] = "alpha_beta"

    @property
    def name(self) -> str:
        return "alpha-beta"

    def _column(self, index: int) -> Tensor:
        return self.table[..., index : index + 1]

    def _terms(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return terms_at(lp, lq, x, self._point, below_zero=False)

    @property
    def _point(self) -> Point:
        return Point(*(self._column(i) for i in range(len(Point._fields))))

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        count = len(Point._fields)
        return self._column(count) > 0, self._column(count + 1) > 0


class _BelowZero(_AtPoint):
    """The same where alpha + beta may be below 0, compiled apart, since what that takes costs time."""

    def _terms(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return terms_at(lp, lq, x, self._point, below_zero=True)


def _any(holds: bool | Tensor) -> bool:
    if isinstance(holds, Tensor):
        return holds.device.type != "meta" and not torch.compiler.is_compiling() and bool(holds.any())
    return holds
