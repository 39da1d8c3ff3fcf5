"""From float32 logits: tails down to 1e-30 and rows that nearly agree, against sixty digits."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from references import alpha_beta, softmax

import abkd

SETTINGS = (
    (1.0, 0.0),
    (0.0, 1.0),
    (0.5, 0.5),
    (0.2, 0.7),
    (0.8, 0.3),
    (1.0, 1.0),
    (0.0, 0.0),
    (1.3, 0.7),
    (0.6, -0.2),
)
CLASSES = 24


def hard_rows() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of rows (student, teacher) of 24 float32 logits."""
    generator = torch.Generator().manual_seed(5)

    def normal() -> torch.Tensor:
        return torch.randn(CLASSES, generator=generator)

    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for tail in (0.0, 10.0, 30.0, 69.0):  # log 1e30 = 69
        slope = -torch.linspace(0, tail, CLASSES)
        for gap in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 5.0):
            base = slope + normal()
            pairs.append((base + gap * normal(), base))
            shift = 100 * torch.randn((), generator=generator)  # a constant changes no probability
            pairs.append((base + gap * normal() + shift, base))
    return pairs


def truth(student: torch.Tensor, teacher: torch.Tensor, alpha: float, beta: float) -> tuple[mp.mpf, list[mp.mpf]]:
    with mp.workdps(60):
        p, q = softmax(teacher.double().tolist()), softmax(student.double().tolist())
        a, b = mp.mpf(alpha), mp.mpf(beta)
        u = [-(y**b) * ((x**a - y**a) / a if a != 0 else mp.log(x) - mp.log(y)) for x, y in zip(p, q, strict=True)]
        total = mp.fsum(u)
        return alpha_beta(p, q, a, b), [slope - y * total for slope, y in zip(u, q, strict=True)]


@pytest.mark.filterwarnings("ignore:.*blows up in the tail")
def test_value_and_gradient_keep_their_digits() -> None:
    value_errors: list[float] = []
    gradient_errors: list[float] = []
    for student, teacher in hard_rows():
        for alpha, beta in SETTINGS:
            z = student.clone().requires_grad_()
            loss = abkd.divergence_loss(z, teacher, abkd.AlphaBeta(alpha, beta))
            (slope,) = torch.autograd.grad(loss, z)
            value, slopes = truth(student, teacher, alpha, beta)
            assert math.isfinite(loss.item())
            assert slope.isfinite().all()
            value_errors.append(float(abs(loss.item() / value - 1)))
            norm = mp.sqrt(mp.fsum(s**2 for s in slopes))
            error = mp.sqrt(mp.fsum((m - s) ** 2 for m, s in zip(slope.tolist(), slopes, strict=True)))
            gradient_errors.append(float(error / norm))
    assert len(value_errors) == 504
    assert sum(error <= 2e-5 for error in value_errors) >= 0.99 * len(value_errors)
    assert sum(error <= 2e-5 for error in gradient_errors) >= 0.99 * len(gradient_errors)
    assert max(value_errors) < 1e-4
