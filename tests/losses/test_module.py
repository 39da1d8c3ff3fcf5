"""ABKDLoss: cross-entropy plus a weighted divergence."""

from __future__ import annotations

import torch
from torch.nn import functional as F

import abkd
from abkd.losses import gradient_scale


def test_is_cross_entropy_plus_weighted_divergence() -> None:
    student, teacher = torch.randn(2, 8, 10, dtype=torch.float64)
    labels = torch.randint(10, (8,))
    loss = abkd.ABKDLoss(0.8, 0.3, temperature=4.0, ce_weight=0.5, kd_weight=32.0)(student, teacher, labels)
    divergence = abkd.divergence_loss(student, teacher, abkd.AlphaBeta(0.8, 0.3), temperature=4.0)
    torch.testing.assert_close(loss, 0.5 * F.cross_entropy(student, labels) + 32 * divergence)


def test_without_labels_only_the_divergence() -> None:
    student, teacher = torch.randn(2, 8, 10)
    loss = abkd.ABKDLoss(0.2, 0.7, kd_weight=2.0)(student, teacher)
    torch.testing.assert_close(loss, 2 * abkd.divergence_loss(student, teacher, abkd.AlphaBeta(0.2, 0.7)))


def test_ignored_labels_count_in_neither_term() -> None:
    student, teacher = torch.randn(2, 2, 4, 10)
    labels = torch.randint(10, (2, 4))
    labels[0, 2:] = -100
    kept = labels != -100
    module = abkd.ABKDLoss(0.2, 0.7)
    torch.testing.assert_close(module(student, teacher, labels), module(student[kept], teacher[kept], labels[kept]))
    nothing = module(student.requires_grad_(), teacher, torch.full((2, 4), -100))
    nothing.backward()
    assert nothing == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


def test_half_precision_logits() -> None:
    student, teacher = torch.randn(2, 4, 10).bfloat16()
    loss = abkd.ABKDLoss(0.2, 0.7)(student.requires_grad_(), teacher, torch.randint(10, (4,)))
    loss.backward()
    assert loss.dtype == torch.float32
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16


def test_repr_tells_the_settings() -> None:
    assert repr(abkd.ABKDLoss(1, 0, kd_weight=2)) == "ABKDLoss(forward KL, temperature=1, ce_weight=1, kd_weight=2)"


def test_calibrated_gradients_are_as_long_as_forward_kl() -> None:
    student, teacher = torch.randn(2, 8, 10, dtype=torch.float64)
    student.requires_grad_()
    wanted = torch.autograd.grad(abkd.divergence_loss(student, teacher, abkd.ForwardKL(), temperature=4.0), student)[0]
    for alpha, beta in ((0.2, 0.7), (0.8, 0.3), (1.0, 1.0)):
        module = abkd.ABKDLoss(alpha, beta, temperature=4.0, calibrated=True).double()
        mine = torch.autograd.grad(module(student, teacher), student)[0]
        torch.testing.assert_close(mine.norm(), wanted.norm(), rtol=1e-6, atol=0)


def test_calibration_is_a_running_mean_that_is_saved() -> None:
    module = abkd.ABKDLoss(0.2, 0.7, calibrated=True)
    scales: list[float] = []
    for _ in range(5):
        student, teacher = torch.randn(2, 8, 10)
        scales.append(gradient_scale(student, teacher, module.divergence).item())
        module(student, teacher)
    torch.testing.assert_close(module.scale.item(), sum(scales) / 5, rtol=1e-5, atol=0)
    twin = abkd.ABKDLoss(0.2, 0.7, calibrated=True)
    twin.load_state_dict(module.state_dict())
    before = module.scale.clone()
    assert torch.equal(twin.eval()(student, teacher), module.eval()(student, teacher))
    assert torch.equal(module.scale, before), "evaluation must not move it"


def test_scale_is_one_where_student_and_teacher_agree() -> None:
    student = torch.randn(3, 5)
    assert gradient_scale(student, student.clone(), abkd.AlphaBeta(0.2, 0.7)) == 1


def test_a_batch_without_a_gradient_does_not_move_the_calibration() -> None:
    module = abkd.ABKDLoss(0.2, 0.7, calibrated=True)
    nothing = torch.full((8,), -100)
    student, teacher = torch.randn(2, 8, 10)
    module(student, teacher, nothing)
    assert (module.scale, module.batches) == (1, 0)
    module(student, teacher, torch.zeros(8).long())
    seen = module.scale.clone()
    assert seen != 1
    module(student, teacher, nothing)
    module(student, student.clone())
    assert (module.scale, module.batches) == (seen, 1)
