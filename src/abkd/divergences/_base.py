"""What a divergence is: two elementwise formulas, and the values that set them."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from abkd.divergences._arithmetic import ABSENT, RULED_OUT, Coefficient
from abkd.errors import InputError

if TYPE_CHECKING:
    from abkd.divergences._weighted_sum import WeightedSum


class Divergence(ABC):
    """A divergence D(p || q) of a teacher's distribution p and a student's distribution q, in nats.

    A separable member is `D = sum_k f(lp_k, lq_k)`, and writes two formulas: `_f`, and `_u`, the derivative of
    `f` in `lq`. Both are normalised so that `f >= 0`, and `f = u = 0` where p = q. Everything else (softmax,
    temperature, masks, reductions, the pull-back to logits, the fused and the sparse forms) is written once,
    in `abkd.losses`, and takes it from there.

    Members are frozen values: they compare, hash, print, copy and pickle by their settings, and add up:
    `0.5 * ForwardKL() + 0.5 * ReverseKL()`.
    """

    key: ClassVar[str]
    """The name in recipes."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in the literature, with the settings."""

    @abstractmethod
    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor: ...

    @property
    def separable(self) -> bool:
        """Whether `f` and `u` look at one class at a time, so that a row may be summed in pieces."""
        return True

    @property
    @abstractmethod
    def allows_zeros(self) -> tuple[bool | Tensor, bool | Tensor]:
        """Whether D is finite where the teacher alone, and where the student alone, gives a class no mass."""

    def rows(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The divergence of each row and its derivative in `lq`: shapes (...) and (..., V).

        `lp` and `lq` are finite log-probabilities (`RULED_OUT` stands for log 0), `x = lp - lq` as accurately as
        the caller knows it. A member that is more than a sum over classes overrides this.
        """
        f, u = self._terms(lp, lq, x)
        return f.sum(-1), u

    def _terms(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`_f` and `_u` together."""
        return self._f(lp, lq, x), self._u(lp, lq, x)

    def f(self, log_p: Tensor, log_q: Tensor, x: Tensor | None = None) -> Tensor:
        """The elementwise divergence, in nats, whose sum over classes is D (before an outer function, if any).

        Args:
            log_p: teacher's log-probabilities, (..., V); -inf marks a class that is ruled out.
            log_q: student's log-probabilities, (..., V).
            x: `log_p - log_q`, (..., V), where it is known better than by that difference.

        Returns:
            (..., V), in float32 or wider.
        """
        return self._f(*_finite_logs(log_p, log_q, x))

    def u(self, log_p: Tensor, log_q: Tensor, x: Tensor | None = None) -> Tensor:
        """The derivative of `f` in `log_q`, with the same arguments and shape."""
        return self._u(*_finite_logs(log_p, log_q, x))

    def on(self, like: Tensor) -> Divergence:
        """The same divergence with its tensor settings on the device and in the dtype of `like`."""
        return self.with_settings(lambda value: value.to(like) if isinstance(value, Tensor) else value)

    def in_tensors(self, like: Tensor) -> Divergence:
        """The same divergence with its numbers as 0-d tensors too: a compiled form of it serves all numbers.

        A member that decides something in Python by a number cannot be traced in this form.
        """
        copy = object.__new__(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            object.__setattr__(copy, field.name, _in_tensors(getattr(self, field.name), like))
        return copy

    def with_settings(self, change: Callable[[Coefficient], Coefficient]) -> Divergence:
        """The same divergence with every setting that is a number or a tensor changed, members within it included.

        The constructor's checks and warnings do not run again.
        """
        copy = object.__new__(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            object.__setattr__(copy, field.name, _changed(getattr(self, field.name), change))
        return copy

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The settings that are tensors, by name, those of members within this one included."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            yield from _tensors(field.name, getattr(self, field.name))

    def __mul__(self, weight: object) -> WeightedSum:
        from abkd.divergences._weighted_sum import WeightedSum

        if isinstance(weight, bool) or not isinstance(weight, int | float):
            return NotImplemented
        return WeightedSum.of((weight, self))

    __rmul__ = __mul__

    def __add__(self, other: object) -> WeightedSum:
        from abkd.divergences._weighted_sum import WeightedSum

        if not isinstance(other, Divergence):
            return NotImplemented
        return WeightedSum.of((1.0, self), (1.0, other))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _settings(self) == _settings(other)

    def __hash__(self) -> int:
        return hash((type(self), _settings(self)))

    def __str__(self) -> str:
        return self.name


class JointDivergence(Divergence):
    """A divergence whose two formulas share their costly parts: it writes `_terms`, both of them, instead."""

    @abstractmethod
    def _terms(self, lp: Tensor, lq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def _f(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return self._terms(lp, lq, x)[0]

    def _u(self, lp: Tensor, lq: Tensor, x: Tensor) -> Tensor:
        return self._terms(lp, lq, x)[1]


def _finite_logs(log_p: Tensor, log_q: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities with log 0 replaced by its finite stand-in, and their difference (0 where both are 0)."""
    dtype = torch.promote_types(torch.promote_types(log_p.dtype, log_q.dtype), torch.float32)
    lp, lq = log_p.to(dtype).clamp(min=RULED_OUT), log_q.to(dtype).clamp(min=RULED_OUT)
    x = lp - lq if x is None else x.to(dtype)
    both = (lp <= RULED_OUT) & (lq <= RULED_OUT)
    return lp.masked_fill(both, ABSENT), lq.masked_fill(both, ABSENT), x.masked_fill(both, 0.0)


def _settings(divergence: Divergence) -> tuple[Any, ...]:
    values = (getattr(divergence, field.name) for field in dataclasses.fields(divergence))  # type: ignore[arg-type]
    return tuple(_comparable(value) for value in values)


def _comparable(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), tuple(value.detach().double().flatten().tolist()))
    return value


def _changed(value: Any, change: Callable[[Coefficient], Coefficient]) -> Any:
    if isinstance(value, Divergence):
        return value.with_settings(change)
    if isinstance(value, tuple):
        return tuple(_changed(part, change) for part in value)  # pyright: ignore[reportUnknownVariableType]
    return change(value) if isinstance(value, float | Tensor) else value


def _in_tensors(value: Any, like: Tensor) -> Any:
    if isinstance(value, Divergence):
        return value.in_tensors(like)
    if isinstance(value, tuple):
        return tuple(_in_tensors(part, like) for part in value)  # pyright: ignore[reportUnknownVariableType]
    return torch.as_tensor(value, dtype=like.dtype, device=like.device) if isinstance(value, float | Tensor) else value


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Divergence):
        yield from value.tensors()
    elif isinstance(value, tuple):
        for part in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _tensors(name, part)


def checked_setting(owner: object, field: str, value: Any) -> Coefficient:
    """A setting as a finite float, or as a detached floating tensor; anything else is an error that names it."""
    where = f"{type(owner).__name__}.{field}"
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise InputError(f"{where}: expected a floating tensor, got dtype {value.dtype}; convert it with .float()")
        if value.requires_grad:
            raise InputError(f"{where}: the divergence gives its settings no gradient; pass {field}.detach()")
        if value.device.type != "meta" and not torch.compiler.is_compiling() and not bool(value.isfinite().all()):
            raise InputError(f"{where}: expected finite numbers, got a tensor that holds NaN or infinity")
        return value
    if isinstance(value, bool) or (not isinstance(value, int | float) and not hasattr(value, "__float__")):
        raise InputError(f"{where}: expected a number or a tensor, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: expected a number or a tensor, got {value!r}") from error
    if not math.isfinite(number):
        raise InputError(f"{where}: expected a finite number, got {number}")
    return number


def checked_number(owner: object, field: str, value: Any, within: str, holds: Callable[[float], bool]) -> float:
    """A setting that must be one number; `holds` says whether it lies where `within` says."""
    where = f"{type(owner).__name__}.{field}"
    if isinstance(value, Tensor):
        raise InputError(f"{where}: expected one number, got a tensor of shape {tuple(value.shape)}")
    number = float(checked_setting(owner, field, value))
    if not holds(number):
        raise InputError(f"{where}: expected a number {within}, got {number}")
    return number
