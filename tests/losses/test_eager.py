"""The eager loss: reductions, masks, dtypes, transforms, edges."""

from __future__ import annotations

import pytest
import torch

import abkd
from abkd import AlphaBeta, ForwardKL, divergence_loss

D = AlphaBeta(0.2, 0.7)


def logits(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(*shape, dtype=dtype).mul_(2).requires_grad_(), torch.randn(*shape, dtype=dtype) * 2


def gradient(loss: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, student)[0]


@pytest.mark.parametrize("shape", [(5,), (1, 1), (3, 5), (2, 3, 5), (2, 1, 3, 7)], ids=str)
def test_any_leading_shape(shape: tuple[int, ...]) -> None:
    student, teacher = logits(*shape)
    each = divergence_loss(student, teacher, D, reduction="none")
    assert each.shape == shape[:-1]
    flat = divergence_loss(student.reshape(-1, shape[-1]), teacher.reshape(-1, shape[-1]), D, reduction="none")
    torch.testing.assert_close(each.flatten(), flat)
    torch.testing.assert_close(divergence_loss(student, teacher, D), each.mean())
    torch.testing.assert_close(divergence_loss(student, teacher, D, reduction="sum"), each.sum())


def test_no_tokens_at_all() -> None:
    student, teacher = logits(0, 5)
    loss = divergence_loss(student, teacher, D)
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert student.grad.shape == (0, 5)


def test_non_contiguous_logits() -> None:
    student, teacher = logits(7, 4)
    loss = divergence_loss(student.T, teacher.T, D)
    torch.testing.assert_close(loss, divergence_loss(student.T.contiguous(), teacher.T.contiguous(), D))
    assert gradient(loss, student).shape == (7, 4)


@pytest.mark.parametrize("kept", [[], [2], [0, 1, 2, 3]], ids=["none", "one", "all"])
def test_mask(kept: list[int]) -> None:
    student, teacher = logits(4, 5)
    mask = torch.zeros(4, dtype=torch.bool)
    mask[kept] = True
    loss = divergence_loss(student, teacher, D, mask=mask)
    expected = divergence_loss(student[kept], teacher[kept], D)
    torch.testing.assert_close(loss, expected)
    slope = gradient(loss, student)
    assert (slope[~mask] == 0).all()
    torch.testing.assert_close(slope, gradient(expected, student))
    each = divergence_loss(student, teacher, D, mask=mask, reduction="none")
    assert (each[~mask] == 0).all()


def test_masked_tokens_are_never_looked_at() -> None:
    student, teacher = (z.detach() for z in logits(3, 5))
    student[1], teacher[1] = torch.nan, -torch.inf
    student.requires_grad_()
    loss = divergence_loss(student, teacher, D, mask=torch.tensor([True, False, True]))
    assert loss.isfinite()
    assert gradient(loss, student).isfinite().all()


def test_mean_over_a_global_number_of_tokens_makes_accumulation_exact() -> None:
    student, teacher = logits(8, 5, dtype=torch.float64)
    whole = gradient(divergence_loss(student, teacher, D), student)
    parts = sum(
        gradient(divergence_loss(student[i : i + 1], teacher[i : i + 1], D, num_items_in_batch=8), student)
        for i in range(8)
    )
    torch.testing.assert_close(parts, whole, rtol=1e-14, atol=1e-16)


def test_temperature_and_its_square() -> None:
    student, teacher = logits(6, 5, dtype=torch.float64)
    plain = divergence_loss(student, teacher, D, temperature=3.0)
    torch.testing.assert_close(plain, divergence_loss(student / 3, teacher / 3, D))
    torch.testing.assert_close(
        divergence_loss(student, teacher, D, temperature=3.0, temperature_scaling=True), 9 * plain
    )


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = logits(3, 5)
    teacher.requires_grad_()
    loss = divergence_loss(student, teacher, D)
    assert torch.autograd.grad(loss, teacher, allow_unused=True) == (None,)


def test_no_graph_without_need() -> None:
    student, teacher = logits(3, 5)
    with torch.no_grad():
        assert not divergence_loss(student, teacher, D).requires_grad
    assert not divergence_loss(student.detach(), teacher, D).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    student, teacher = (z.detach().to(dtype) for z in logits(4, 50))
    student.requires_grad_()
    loss = divergence_loss(student, teacher, D)
    single = student.detach().float().requires_grad_()
    expected = divergence_loss(single, teacher.float(), D)
    assert loss.dtype == torch.float32
    assert loss == expected
    slope = gradient(loss, student)
    assert slope.dtype == dtype
    torch.testing.assert_close(slope, gradient(expected, single).to(dtype))


def test_mixed_precision_of_student_and_teacher() -> None:
    student, teacher = logits(4, 5)
    assert divergence_loss(student, teacher.bfloat16(), D).dtype == torch.float32
    assert divergence_loss(student, teacher.double(), D).dtype == torch.float64


def test_autocast() -> None:
    student, teacher = logits(4, 5)
    plain = divergence_loss(student, teacher, D)
    with torch.autocast("cpu", torch.bfloat16):
        cast = divergence_loss(student, teacher, D)
    assert cast == plain
    torch.testing.assert_close(gradient(cast, student), gradient(plain, student), rtol=0, atol=0)


@pytest.mark.parametrize(
    "d", [D, AlphaBeta(torch.rand(4, 1), torch.rand(4, 1)), abkd.AKL()], ids=["numbers", "tensors", "akl"]
)
def test_compiled_is_eager(d: abkd.Divergence) -> None:
    torch.compiler.reset()
    student, teacher = logits(4, 5)
    mask = torch.tensor([True, True, False, True])
    compiled = torch.compile(lambda s, t, m: divergence_loss(s, t, d, mask=m), fullgraph=True, backend="aot_eager")
    loss, expected = compiled(student, teacher, mask), divergence_loss(student, teacher, d, mask=mask)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_func_transforms() -> None:
    student, teacher = logits(6, 5, dtype=torch.float64)
    mask = torch.tensor([True, True, False, True, True, False])
    expected = gradient(divergence_loss(student, teacher, D, mask=mask), student)
    plain = student.detach()
    torch.testing.assert_close(torch.func.grad(lambda z: divergence_loss(z, teacher, D, mask=mask))(plain), expected)
    each = torch.func.vmap(torch.func.grad(lambda z, t: divergence_loss(z, t, D)), in_dims=(1, 0))(plain.T, teacher)
    total = gradient(divergence_loss(student, teacher, D, reduction="sum"), student)
    torch.testing.assert_close(each, total)
    values = torch.func.vmap(lambda z: divergence_loss(z, teacher[0], D))(plain)
    assert values.shape == (6,)


def test_second_derivatives_are_refused_not_wrong() -> None:
    student, teacher = logits(3, 5)
    weight = torch.randn(5, 5, requires_grad=True)
    for z in (student, torch.tanh(student @ weight)):
        (slope,) = torch.autograd.grad(divergence_loss(z, teacher, D), student, create_graph=True)
        with pytest.raises(abkd.InputError, match="differentiable once"):
            torch.autograd.grad(slope.square().sum(), student)
    with pytest.raises(abkd.InputError, match="differentiable once"):
        torch.func.grad(lambda z: torch.func.grad(lambda y: divergence_loss(y, teacher, D))(z).square().sum())(
            student.detach()
        )


def test_settings_for_each_token() -> None:
    student, teacher = logits(2, 3, 5, dtype=torch.float64)
    alpha, beta = torch.rand(2, 3, 1), torch.rand(3, 1)
    each = divergence_loss(student, teacher, AlphaBeta(alpha, beta), reduction="none")
    slope = gradient(each.sum(), student)
    for i in range(2):
        for j in range(3):
            one = AlphaBeta(alpha[i, j].double().item(), beta[j].double().item())
            row = student[i, j].detach().requires_grad_()
            value = divergence_loss(row, teacher[i, j], one)
            torch.testing.assert_close(each[i, j], value)
            torch.testing.assert_close(slope[i, j], gradient(value, row))


# --- edges ---


def test_an_infinite_divergence_is_an_error_that_names_the_token_and_the_remedies() -> None:
    student, teacher = (z.detach() for z in logits(2, 3, 5))
    student[1, 2, 4] = -torch.inf
    with pytest.raises(abkd.InfiniteDivergenceError) as caught:
        divergence_loss(student, teacher, ForwardKL())
    message = str(caught.value)
    for part in ("token index (1, 2)", "student rules out class 4", "support='shared'", "log_floor", "mask"):
        assert part in message


def test_log_floor_makes_it_finite() -> None:
    student, teacher = (z.detach() for z in logits(3, 5))
    student[1, 4], teacher[0, 2] = -torch.inf, -torch.inf
    student.requires_grad_()
    for d in abkd.divergences.ALL:
        loss = divergence_loss(student, teacher, d, log_floor=-30.0)
        assert loss.isfinite()
        slope = gradient(loss, student)
        assert slope.isfinite().all()
        assert slope[1, 4] == 0


def test_log_floor_adds_no_class_that_both_rule_out() -> None:
    student, teacher = (z.detach() for z in logits(4, 7))
    student[:, 5:], teacher[:, 5:], teacher[:, 0] = -torch.inf, -torch.inf, -torch.inf
    for d in abkd.divergences.ALL:
        cut = divergence_loss(student[:, :5], teacher[:, :5], d, log_floor=-9.0)
        torch.testing.assert_close(divergence_loss(student, teacher, d, log_floor=-9.0), cut, rtol=1e-5, atol=0)


def test_log_floor_has_the_gradient_of_what_it_computes() -> None:
    student, teacher = logits(3, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: divergence_loss(z, teacher, ForwardKL(), log_floor=-2.5), (student,))


def test_shared_support_renormalises() -> None:
    student, teacher = (z.detach() for z in logits(2, 5))
    student[:, 4], teacher[:, 0] = -torch.inf, -torch.inf
    shared = divergence_loss(student, teacher, ForwardKL(), support="shared")
    torch.testing.assert_close(shared, divergence_loss(student[:, 1:4], teacher[:, 1:4], ForwardKL()))
    teacher[0, 1:4] = -torch.inf
    with pytest.raises(abkd.InputError, match="share no class"):
        divergence_loss(student, teacher, ForwardKL(), support="shared")


def test_underflowing_probabilities_stay_finite() -> None:
    """Official code gives NaN here at every setting but (1, 1)."""
    teacher = torch.tensor([[0.0, -200.0, -5000.0]])
    student = torch.tensor([[-3000.0, 0.0, -100.0]], requires_grad=True)
    for alpha, beta in ((1, 0), (0.2, 0.7), (0.5, 0.5), (0, 1), (1, 1), (0.8, 0.3)):
        loss = divergence_loss(student, teacher, AlphaBeta(alpha, beta))
        assert loss.isfinite()
        assert loss > 0
        assert gradient(loss, student).isfinite().all()


def test_overflow_is_an_error_and_never_nan_beside_a_finite_loss() -> None:
    student = torch.tensor([[0.0, -300.0]], requires_grad=True)
    teacher = torch.tensor([[-300.0, 0.0]])
    with pytest.raises(abkd.InfiniteDivergenceError, match="overflows"):
        divergence_loss(student, teacher, abkd.AlphaNet(-1, 1))
    loss = divergence_loss(student.double(), teacher.double(), abkd.AlphaNet(-1, 1))
    assert loss.isfinite()


@pytest.mark.parametrize("d", abkd.divergences.ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3])
def test_a_finite_loss_has_a_finite_gradient(d: abkd.Divergence, scale: float) -> None:
    student, teacher = (z.detach() * scale for z in logits(40, 9))
    student.requires_grad_()
    try:
        loss = divergence_loss(student, teacher, d)
    except abkd.InfiniteDivergenceError:
        assert isinstance(d, abkd.AlphaNet), "only an order below 0 may overflow here"
        return
    assert gradient(loss, student).isfinite().all()
