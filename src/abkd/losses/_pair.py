"""Two models' log-probabilities and their difference, as accurately as the logits allow."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from abkd.divergences import Divergence
from abkd.divergences._arithmetic import ABSENT, RULED_OUT


class Pair(NamedTuple):
    """Two distributions over (..., V), as a divergence and its pull-back want them.

    Log 0 is the finite `RULED_OUT`; classes that both models rule out stand as equal, with q = 0.
    """

    lp: Tensor
    lq: Tensor
    x: Tensor
    """`lp - lq`, known better than by that difference."""
    q: Tensor
    teacher_zero: Tensor
    """Where the teacher alone rules a class out."""
    student_zero: Tensor
    """Where the student alone does."""


def log_pair(student: Tensor, teacher: Tensor, temperature: float) -> Pair:
    """Log-softmax of both logits at a temperature, and their difference.

    The difference is taken of the logits, exactly, not of the log-probabilities, and the log-sum is `log1p` of the sum
    without the maximum, so that near-equal rows keep their digits. Where p and q nearly agree, x is shifted so
    that p = q exp(x) sums to 1 again.

    Args:
        student: (..., V), float32 or float64; -inf rules a class out.
        teacher: likewise.
        temperature: above 0.
    """
    lq, student_max, student_log_sum = _log_softmax(student, temperature)
    lp, teacher_max, teacher_log_sum = _log_softmax(teacher, temperature)
    gap, gap_error = _exact_difference(teacher, student)
    top, top_error = _exact_difference(teacher_max, student_max)
    x = ((gap - top) + (gap_error - top_error)) / temperature - (teacher_log_sum - student_log_sum)
    pair = paired(lp, lq, x)
    near = pair.x.abs().amax(-1, keepdim=True) < 0.5
    excess = (pair.q * torch.expm1(pair.x.clamp(-1, 1))).sum(-1, keepdim=True)
    absent = (lp == -torch.inf) & (lq == -torch.inf)
    return pair._replace(x=torch.where(near & ~absent, pair.x - torch.log1p(excess), pair.x))


def paired(lp: Tensor, lq: Tensor, x: Tensor) -> Pair:
    """The pair of log-probabilities among which -inf marks a class that is ruled out; x, their difference, may be NaN
    where both do.
    """
    teacher_zero, student_zero = lp == -torch.inf, lq == -torch.inf
    both = student_zero & teacher_zero
    q = torch.exp(lq)
    lp, lq = (log.clamp(min=RULED_OUT).masked_fill(both, ABSENT) for log in (lp, lq))
    x = x.clamp(RULED_OUT, -RULED_OUT).masked_fill(both, 0.0)
    return Pair(lp, lq, x, q, teacher_zero & ~student_zero, student_zero & ~teacher_zero)


def floored(pair: Pair, log_floor: float) -> tuple[Pair, Tensor]:
    """The pair with log-probabilities no lower than `log_floor`, and where the student's was raised (no gradient).

    Classes that both models rule out stay as they are.
    """
    absent = (pair.lq == ABSENT) & (pair.q == 0)
    lp, lq = (torch.where(absent, log, log.clamp(min=log_floor)) for log in (pair.lp, pair.lq))
    raised = (lp != pair.lp) | (lq != pair.lq)
    nowhere = torch.zeros_like(pair.teacher_zero)
    return Pair(lp, lq, torch.where(raised, lp - lq, pair.x), pair.q, nowhere, nowhere), lq != pair.lq


def pull_back(u: Tensor, q: Tensor, temperature: float) -> Tensor:
    """The gradient in the logits from that in the log-probabilities: `(u_j - q_j sum_k u_k) / T`, (..., V)."""
    return (u - q * u.sum(-1, keepdim=True)) / temperature


def infinite_classes(pair: Pair, divergence: Divergence) -> Tensor:
    """The classes (..., V) that make the divergence infinite."""
    teacher, student = divergence.allows_zeros
    return (pair.teacher_zero & _not(teacher)) | (pair.student_zero & _not(student))


def _not(allowed: bool | Tensor) -> bool | Tensor:
    return ~allowed if isinstance(allowed, Tensor) else not allowed


def _exact_difference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """`a - b` as rounded, and what the rounding lost (Knuth's two-sum); 0 lost where the difference is infinite.

    Two models' logits often differ by a large constant, which then cancels: without the lost part, so would x.
    """
    difference = a - b
    part = difference - a
    lost = (a - (difference - part)) - (b + part)
    return difference, torch.where(difference.isfinite(), lost, 0.0)


def _log_softmax(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """The log-softmax (..., V), the largest logit (..., 1), and `log sum exp((z - max) / T)` (..., 1)."""
    largest, index = logits.max(-1, keepdim=True)
    shifted = (logits - largest) / temperature
    others = torch.exp(shifted).scatter(-1, index, 0.0)
    log_sum = torch.log1p(others.sum(-1, keepdim=True))
    return shifted - log_sum, largest, log_sum
