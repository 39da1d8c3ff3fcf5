"""Generalised Jensen-Shannon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from abkd.divergences._base import JointDivergence, checked_number
from abkd.divergences._mixture_terms import mixture_terms


@dataclass(frozen=True, eq=False)
class JensenShannon(JointDivergence):
    """Generalised Jensen-Shannon divergence with the mixture `m = beta p + (1 - beta) q`.

        D(p || q) = beta KL(p || m) + (1 - beta) KL(q || m)

    Args:
        beta: the teacher's share of the mixture, in (0, 1); 0.5 is the symmetric one. This is the `beta` of GKD,
            not the beta of the alpha-beta-divergence. D vanishes as beta nears either end, where libraries switch
            to a KL by hand; ask for `ForwardKL()` or `ReverseKL()` instead.

    Range: [0, log 2]. Always finite.

    Raises:
        InputError: beta outside (0, 1).

    References:
        Lin (1991), IEEE Trans. Inf. Theory 37(1), eq. 4.1; GKD, Agarwal et al. (2024), arXiv 2306.13649, eq. 1.
    """

    beta: float = 0.5
    key: ClassVar[str] = "jensen_shannon"

    def __post_init__(self) -> None:
        beta = checked_number(
            self,
            "beta",
            self.beta,
            "in (0, 1); for the ends use ForwardKL() or ReverseKL()",
            lambda b: 0 < b < 1,
        )
        object.__setattr__(self, "beta", beta)

    @property
    def name(self) -> str:
        return f"Jensen-Shannon ({self.beta:g})"

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        return True, True

    def _terms(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return mixture_terms(lp, lq, x, self.beta, self.beta, 1 - self.beta)
