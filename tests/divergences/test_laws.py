"""What must hold for every member of the family."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from references import value_and_gradient

import abkd
from abkd.divergences import ALL
from abkd.losses._pair import log_pair

members = pytest.mark.parametrize("d", ALL, ids=lambda d: d.name)


def rows(*shape: int, spread: float = 2.0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(*shape, dtype=dtype) * spread, torch.randn(*shape, dtype=dtype) * spread


@members
def test_zero_exactly_where_equal(d: abkd.Divergence) -> None:
    student, _ = rows(20, 11)
    student.requires_grad_()
    loss = abkd.divergence_loss(student, student.detach(), d, reduction="none")
    assert loss.abs().max() == 0
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient.abs().max() < 1e-15


@members
def test_positive_where_different(d: abkd.Divergence) -> None:
    for spread in (1e-3, 0.1, 2.0, 8.0):
        loss = abkd.divergence_loss(*rows(50, 11, spread=spread), d, reduction="none")
        assert (loss > 0).all()


@members
def test_a_constant_added_to_the_logits_changes_nothing(d: abkd.Divergence) -> None:
    student, teacher = rows(10, 7)
    shifted = abkd.divergence_loss(student + 3, teacher - 5, d, reduction="none")
    torch.testing.assert_close(shifted, abkd.divergence_loss(student, teacher, d, reduction="none"), rtol=1e-10, atol=0)


@members
def test_the_order_of_classes_does_not_matter(d: abkd.Divergence) -> None:
    student, teacher = rows(10, 7)
    order = torch.randperm(7)
    moved = abkd.divergence_loss(student[:, order], teacher[:, order], d, reduction="none")
    torch.testing.assert_close(moved, abkd.divergence_loss(student, teacher, d, reduction="none"), rtol=1e-12, atol=0)


@members
def test_logit_gradient_sums_to_zero(d: abkd.Divergence) -> None:
    student, teacher = rows(30, 13)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(abkd.divergence_loss(student, teacher, d, reduction="sum"), student)
    assert (gradient.sum(-1).abs() <= 1e-12 * (1 + gradient.abs().sum(-1))).all()


@members
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_agrees_with_sixty_digits(d: abkd.Divergence, temperature: float) -> None:
    for spread in (0.01, 1.0, 6.0):
        student, teacher = rows(5, spread=spread)
        student.requires_grad_()
        loss = abkd.divergence_loss(student, teacher, d, temperature=temperature)
        (gradient,) = torch.autograd.grad(loss, student)
        value, slopes = value_and_gradient(d, student.tolist(), teacher.tolist(), temperature)
        assert abs(loss.item() / value - 1) < 1e-11
        scale = max(abs(slope) for slope in slopes)
        for mine, true in zip(gradient.tolist(), slopes, strict=True):
            assert abs(mine - true) < 1e-11 * scale + 1e-15


@members
def test_gradcheck(d: abkd.Divergence) -> None:
    if isinstance(d, abkd.AKL):
        pytest.skip("its weights move with the student but carry no gradient; held to sixty digits above")
    student, teacher = rows(3, 6)
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: abkd.divergence_loss(z, teacher, d, temperature=1.5, reduction="none"), (student,)
    )


@members
def test_u_is_the_derivative_of_f(d: abkd.Divergence) -> None:
    if not d.separable:
        pytest.skip("f and u of this member look at whole rows")
    lp = torch.log_softmax(torch.randn(200, dtype=torch.float64) * 3, 0)
    lq = torch.log_softmax(torch.randn(200, dtype=torch.float64) * 3, 0)
    step = 1e-6
    slope = (d.f(lp, lq + step) - d.f(lp, lq - step)) / (2 * step)
    torch.testing.assert_close(d.u(lp, lq), slope, rtol=1e-6, atol=1e-10)


@members
def test_f_and_u_are_normalised(d: abkd.Divergence) -> None:
    if not d.separable:
        pytest.skip("only a separable member is a sum of f")
    lp = -torch.rand(500, dtype=torch.float64) * 60
    lq = -torch.rand(500, dtype=torch.float64) * 60
    assert (d.f(lp, lq) >= 0).all()
    assert (d.f(lp, lp) == 0).all()
    assert (d.u(lp, lp) == 0).all()
    assert d.f(torch.tensor(-torch.inf), torch.tensor(-torch.inf)) == 0
    assert d.u(torch.tensor(-torch.inf), torch.tensor(-torch.inf)) == 0


@members
def test_rows_is_the_sum_of_f(d: abkd.Divergence) -> None:
    pair = log_pair(*rows(6, 9), 1.0)
    value, u = d.rows(pair.lp, pair.lq, pair.x)
    assert value.shape == (6,)
    assert u.shape == (6, 9)
    if d.separable:
        torch.testing.assert_close(value, d.f(pair.lp, pair.lq, pair.x).sum(-1))


@members
def test_finite_zeros_are_the_limit(d: abkd.Divergence) -> None:
    """Where a member says that a class without mass is finite, it is the limit of ever less mass."""
    for side, allowed in zip(("teacher", "student"), d.allows_zeros, strict=True):
        student, teacher = rows(5)
        zero = teacher if side == "teacher" else student
        zero[2] = -torch.inf
        student.requires_grad_()
        if not allowed:
            with pytest.raises(abkd.InfiniteDivergenceError, match="class 2"):
                abkd.divergence_loss(student, teacher, d)
            continue
        loss = abkd.divergence_loss(student, teacher, d)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        near_student, near_teacher = student.detach().clone(), teacher.clone()
        (near_teacher if side == "teacher" else near_student)[2] = -400.0
        torch.testing.assert_close(loss, abkd.divergence_loss(near_student, near_teacher, d), rtol=1e-6, atol=1e-12)


@members
def test_classes_that_both_rule_out_change_nothing(d: abkd.Divergence) -> None:
    student, teacher = rows(4, 6)
    wide_student, wide_teacher = (torch.full((4, 9), -torch.inf, dtype=torch.float64) for _ in range(2))
    wide_student[:, :6], wide_teacher[:, :6] = student, teacher
    wide_student.requires_grad_()
    student.requires_grad_()
    wide, plain = (abkd.divergence_loss(s, t, d) for s, t in ((wide_student, wide_teacher), (student, teacher)))
    torch.testing.assert_close(wide, plain, rtol=1e-12, atol=0)
    wide.backward()
    plain.backward()
    assert wide_student.grad is not None
    assert student.grad is not None
    assert (wide_student.grad[:, 6:] == 0).all()
    torch.testing.assert_close(wide_student.grad[:, :6], student.grad, rtol=1e-10, atol=1e-14)


@members
def test_is_a_value(d: abkd.Divergence) -> None:
    for twin in (copy.copy(d), copy.deepcopy(d), pickle.loads(pickle.dumps(d))):
        assert twin == d
        assert hash(twin) == hash(d)
        assert twin.name == d.name
    assert eval(repr(d), vars(abkd)) == d  # the repr is the code that makes it
    assert sum(d == other for other in ALL) == 1
    assert len({*ALL, d}) == len(ALL)
    with pytest.raises(AttributeError):
        d.anything = 1  # type: ignore[attr-defined]


@members
def test_half_precision_is_computed_in_single(d: abkd.Divergence) -> None:
    lp, lq = (torch.log_softmax(z, -1) for z in rows(3, 6, dtype=torch.float32))
    for dtype in (torch.bfloat16, torch.float16):
        low_p, low_q = lp.to(dtype), lq.to(dtype)
        low_p[0, 0] = low_q[0, 0] = -torch.inf
        for formula in (d.f, d.u):
            assert torch.equal(formula(low_p, low_q), formula(low_p.float(), low_q.float()))


@members
def test_says_what_it_is(d: abkd.Divergence) -> None:
    assert d.name
    assert str(d) == d.name
    text = type(d).__doc__ or ""
    assert "Range:" in text
    assert isinstance(d, abkd.WeightedSum) or "References:" in text


def test_renyi_without_a_shared_class_is_infinite() -> None:
    student, teacher = torch.tensor([0.0, -torch.inf]), torch.tensor([-torch.inf, 0.0])
    with pytest.raises(abkd.InfiniteDivergenceError):
        abkd.divergence_loss(student, teacher, abkd.Renyi(0.5))


@pytest.mark.parametrize("alpha", [1.0, 0.9, -1.0])
@pytest.mark.parametrize("gap", [5.0, 50.0, 120.0])
def test_an_assistant_far_from_both(alpha: float, gap: float) -> None:
    d = abkd.AlphaMixture(alpha, 0.5)
    student, teacher = [0.0, gap], [gap, 0.0]
    value, _ = value_and_gradient(d, student, teacher)
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        loss = abkd.divergence_loss(torch.tensor(student, dtype=dtype), torch.tensor(teacher, dtype=dtype), d)
        assert abs(loss.item() / value - 1) < bound
