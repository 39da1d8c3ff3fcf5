"""Weighted sums of divergences."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Any, ClassVar

from torch import Tensor

from abkd.divergences._base import Divergence
from abkd.errors import InputError


@dataclass(frozen=True, eq=False)
class WeightedSum(Divergence):
    """A weighted sum of divergences, `sum_i w_i D_i(p || q)`, written `0.5 * ForwardKL() + 0.5 * ReverseKL()`.

    Args:
        terms: pairs of a weight (>= 0, finite) and a divergence. Those of weight 0 are not computed while there are
            others.

    Range: [0, inf), finite where every term of a weight above 0 is.

    Raises:
        InputError: no terms, or a weight that is negative or not finite.
    """

    terms: tuple[tuple[float, Divergence], ...]
    key: ClassVar[str] = "weighted_sum"

    def __post_init__(self) -> None:
        if not self.terms:
            raise InputError("WeightedSum.terms: expected at least one pair (weight, divergence), got none")
        object.__setattr__(self, "terms", tuple(_checked_term(*term) for term in self.terms))

    @staticmethod
    def of(*terms: tuple[float, Divergence]) -> WeightedSum:
        """The sum of these terms, with the sums among them spread out."""
        flat: list[tuple[float, Divergence]] = []
        for weight, divergence in terms:
            if isinstance(divergence, WeightedSum):
                flat.extend((weight * inner, member) for inner, member in divergence.terms)
            else:
                flat.append((weight, divergence))
        return WeightedSum(tuple(flat))

    @property
    def name(self) -> str:
        return " + ".join(f"{weight:g} x {divergence.name}" for weight, divergence in self.terms)

    @property
    def _present(self) -> tuple[tuple[float, Divergence], ...]:
        """The terms that are computed: of weight 0 only where all are; those as tensors are chosen already."""
        return tuple(term for term in self.terms if isinstance(term[0], Tensor) or term[0] > 0) or self.terms

    def in_tensors(self, like: Tensor) -> Divergence:
        return Divergence.in_tensors(WeightedSum(self._present), like)

    @property
    def separable(self) -> bool:
        return all(divergence.separable for _, divergence in self._present)

    @property
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        teacher, student = zip(*(divergence.allows_zeros for _, divergence in self._present), strict=True)
        return reduce(and_, teacher), reduce(and_, student)

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return _total([weight * divergence.f(lp, lq, x) for weight, divergence in self._present])

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return _total([weight * divergence.u(lp, lq, x) for weight, divergence in self._present])

    def rows(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        values, derivatives = zip(*(divergence.rows(lp, lq, x) for _, divergence in self._present), strict=True)
        weights = [weight for weight, _ in self._present]
        return (
            _total([weight * value for weight, value in zip(weights, values, strict=True)]),
            _total([weight * u for weight, u in zip(weights, derivatives, strict=True)]),
        )


def _checked_term(weight: Any, divergence: Any) -> tuple[float, Divergence]:
    if not isinstance(divergence, Divergence):
        raise InputError(f"WeightedSum: expected pairs of a weight and a divergence, got {divergence!r}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= sys.float_info.max:
        raise InputError(f"WeightedSum: expected a finite weight >= 0 for {divergence.name}, got {weight!r}")
    return float(weight), divergence


def _total(parts: list[Tensor]) -> Tensor:
    return reduce(lambda a, b: a + b, parts)
