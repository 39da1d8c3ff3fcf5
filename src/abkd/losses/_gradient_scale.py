"""Comparing divergences at equal force: the factor between two gradients' norms."""

from __future__ import annotations

import torch
from torch import Tensor

from abkd.divergences import Divergence, ForwardKL
from abkd.losses._eager import divergence_loss


def gradient_scale(
    student_logits: Tensor,
    teacher_logits: Tensor,
    divergence: Divergence,
    *,
    reference: Divergence | None = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """How many times a divergence must be taken for its gradient to be as long as the reference's.

        scale = || d reference / d student_logits ||_2 / || d divergence / d student_logits ||_2

    Near p = q a divergence is about 1/2 sum_k q_k^s (log p_k/q_k)^2, so that its force depends on s = alpha + beta:
    one loss weight does not serve two of them. Weighing each by its scale, they can be swapped or compared
    without tuning the weight again. Nothing is differentiated through the scale.

    Args:
        student_logits: (..., V).
        teacher_logits: the same shape.
        divergence: the one to be scaled.
        reference: forward KL unless given.
        temperature: of both.
        mask: (...) bool, True for the tokens that count.

    Returns:
        A scalar without gradient; 1 where either gradient vanishes (student and teacher agree).

    Raises:
        InputError, InfiniteDivergenceError: as `divergence_loss`.
    """
    return measured_scale(student_logits, teacher_logits, divergence, reference, temperature, mask)[0]


def measured_scale(
    student_logits: Tensor,
    teacher_logits: Tensor,
    divergence: Divergence,
    reference: Divergence | None,
    temperature: float,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The scale, and whether there were two gradients to compare, each (): bool."""
    student = student_logits.detach().requires_grad_()
    norms: list[Tensor] = []
    for member in (ForwardKL() if reference is None else reference, divergence):
        with torch.enable_grad():
            total = divergence_loss(
                student, teacher_logits, member, temperature=temperature, mask=mask, reduction="sum"
            )
        norms.append(torch.linalg.vector_norm(torch.autograd.grad(total, student)[0].float()))
    wanted, own = norms
    found = (wanted > 0) & (own > 0)
    return torch.where(found, wanted / own, 1.0), found
