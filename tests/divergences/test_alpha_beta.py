"""The alpha-beta plane: 60-digit arithmetic on a grid, limits across every singular line, duality, named points."""

from __future__ import annotations

import math
import warnings

import mpmath as mp
import pytest
import torch
from references import alpha_beta

import abkd
from abkd import AlphaBeta
from abkd.divergences._arithmetic import ABSENT

OFFSET = 1e-6
GRID = (
    -0.5,
    -0.3,
    -OFFSET,
    0.0,
    OFFSET,
    0.2,
    0.5,
    0.5 + OFFSET,
    0.8,
    1.0 - OFFSET,
    1.0,
    1.0 + OFFSET,
    1.3,
    1.7,
    2.0,
)
LEVELS = (-0.1, -1.0, -5.0, -20.0, -60.0, -90.0)
GAPS = (1e-6, 1e-4, 1e-2, 0.1, 0.3, 0.45, 0.55, 0.9, 1.1, 2.0, 5.0, 12.0, 26.0)

pytestmark = pytest.mark.filterwarnings("ignore:.*blows up in the tail")


def pairs(dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor(LEVELS, dtype=dtype)[torch.randint(len(LEVELS), (8,), generator=generator)]
    gaps = torch.tensor(GAPS, dtype=dtype)[torch.randint(len(GAPS), (8,), generator=generator)]
    signs = torch.randint(2, (8,), generator=generator).to(dtype) * 2 - 1
    return levels + signs * gaps, levels


def elementwise_truth(lp: float, lq: float, alpha: float, beta: float) -> tuple[mp.mpf, mp.mpf]:
    with mp.workdps(120):
        a, b = mp.mpf(alpha), mp.mpf(beta)
        p, q = mp.exp(mp.mpf(lp)), mp.exp(mp.mpf(lq))
        slope = -(q**b) * ((p**a - q**a) / a if a != 0 else mp.mpf(lp) - mp.mpf(lq))
        return alpha_beta([p], [q], a, b), slope


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["double", "single"])
def test_f_and_u_agree_with_sixty_digits_over_the_plane(dtype: torch.dtype, bound: float) -> None:
    limits = torch.finfo(dtype)
    worst = 0.0
    for i, alpha in enumerate(GRID):
        for j, beta in enumerate(GRID):
            lp, lq = pairs(dtype, 100 * i + j)
            d = AlphaBeta(alpha, beta)
            f, u = d.f(lp, lq), d.u(lp, lq)
            for k in range(len(lp)):
                for mine, true in zip(
                    (f[k], u[k]), elementwise_truth(lp[k].item(), lq[k].item(), alpha, beta), strict=True
                ):
                    if limits.tiny < abs(true) < limits.max:
                        worst = max(worst, float(abs(mine.item() / true - 1)))
    assert worst <= bound


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
def test_tensor_settings_agree_with_numbers(dtype: torch.dtype) -> None:
    alphas = torch.tensor(GRID, dtype=dtype).repeat_interleave(len(GRID)).unsqueeze(-1)
    betas = torch.tensor(GRID, dtype=dtype).repeat(len(GRID)).unsqueeze(-1)
    lp, lq = pairs(dtype, 7)
    d = AlphaBeta(alphas, betas)
    f, u = d.f(lp.expand(len(alphas), -1), lq), d.u(lp.expand(len(alphas), -1), lq)
    for row, (alpha, beta) in enumerate(zip(alphas.flatten().tolist(), betas.flatten().tolist(), strict=True)):
        one = AlphaBeta(alpha, beta)
        tolerance = 4e-6 if dtype is torch.float32 else 1e-13
        torch.testing.assert_close(f[row], one.f(lp, lq), rtol=tolerance, atol=1e-36)
        torch.testing.assert_close(u[row], one.u(lp, lq), rtol=tolerance, atol=1e-36)


@pytest.mark.parametrize(
    ("alpha", "beta"),
    [(0.0, 0.7), (0.0, 1.0), (0.7, 0.0), (1.0, 0.0), (0.4, -0.4), (-0.4, 0.4), (-1.0, 1.0), (0.0, 0.0)],
    ids=str,
)
def test_continuous_across_singular_lines(alpha: float, beta: float) -> None:
    """Peers jump here: by 1/alpha or 1/beta in their limit branches, 3.3 times at beta = 0."""
    student, teacher = torch.randn(2, 20, 9, dtype=torch.float64)
    student.requires_grad_()
    at = abkd.divergence_loss(student, teacher, AlphaBeta(alpha, beta))
    (slope,) = torch.autograd.grad(at, student)
    for step in (1e-3, 1e-6, 1e-9, 1e-12, 1e-16, 1e-200, 5e-324):
        for da, db in ((step, 0), (-step, 0), (0, step), (0, -step), (step, -step)):
            near = abkd.divergence_loss(student, teacher, AlphaBeta(alpha + da, beta + db))
            (near_slope,) = torch.autograd.grad(near, student)
            torch.testing.assert_close(near, at, rtol=10 * step + 1e-13, atol=0)
            torch.testing.assert_close(near_slope, slope, rtol=10 * step + 1e-10, atol=step + 1e-13)


def test_duality() -> None:
    student, teacher = torch.randn(2, 20, 9, dtype=torch.float64)
    for alpha, beta in ((0.2, 0.7), (1.0, 0.0), (1.5, -0.3), (0.0, 0.6)):
        one = abkd.divergence_loss(student, teacher, AlphaBeta(alpha, beta))
        other = abkd.divergence_loss(teacher, student, AlphaBeta(beta, alpha))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("alpha", "beta", "other"),
    [
        (1, 0, abkd.ForwardKL()),
        (0, 1, abkd.ReverseKL()),
        (0.5, 0.5, 4 * abkd.Hellinger()),
        (1, 1, 0.5 * abkd.SquaredEuclidean()),
    ],
    ids=str,
)
def test_named_points(alpha: float, beta: float, other: abkd.Divergence) -> None:
    student, teacher = torch.randn(2, 20, 9, dtype=torch.float64)
    one = abkd.divergence_loss(student, teacher, AlphaBeta(alpha, beta), reduction="none")
    torch.testing.assert_close(one, abkd.divergence_loss(student, teacher, other, reduction="none"), rtol=1e-12, atol=0)


def test_origin_is_half_the_squared_distance_of_logs() -> None:
    lp, lq = torch.randn(2, 9, dtype=torch.float64)
    torch.testing.assert_close(AlphaBeta(0, 0).f(lp, lq), (lp - lq) ** 2 / 2)


@pytest.mark.parametrize(("dtype", "power"), [(torch.float32, -2.0), (torch.float64, -15.0)], ids=["single", "double"])
def test_classes_that_both_rule_out_overflow_nothing(dtype: torch.dtype, power: float) -> None:
    """Their stand-in to the power alpha + beta is infinite there, and their difference 0."""
    student, teacher = torch.tensor([[[0.3, 0.1, -torch.inf]], [[0.2, 0.4, -torch.inf]]], dtype=dtype)
    point = AlphaBeta(power, power)
    per_token = AlphaBeta(torch.full((1, 1), power, dtype=dtype), power)
    cut = abkd.divergence_loss(student[:, :2], teacher[:, :2], point)
    absent = torch.full((1, 2), ABSENT, dtype=dtype)
    for f_or_u in point.in_tensors(student)._terms(absent, absent, torch.zeros_like(absent)):
        assert torch.equal(f_or_u, torch.zeros_like(absent))
    for d in (point, per_token):
        torch.testing.assert_close(abkd.divergence_loss(student, teacher, d), cut)


def test_renyi_and_alpha_beta_meet() -> None:
    student, teacher = torch.randn(2, 20, 9, dtype=torch.float64)
    for order in (1 - 1e-9, 1.0, 1 + 1e-9):
        torch.testing.assert_close(
            abkd.divergence_loss(student, teacher, abkd.Renyi(order)),
            abkd.divergence_loss(student, teacher, abkd.ForwardKL()),
            rtol=1e-7,
            atol=0,
        )


def test_names() -> None:
    assert AlphaBeta(1, 0).name == "forward KL"
    assert AlphaBeta(0, 1).name == "reverse KL"
    assert AlphaBeta(0.2, 0.7).name == "alpha-beta (0.2, 0.7)"
    assert "alpha-divergence of order 0.3" in AlphaBeta(0.3, 0.7).name
    assert "beta-divergence of order 1.5" in AlphaBeta(1, 0.5).name
    assert repr(AlphaBeta(1, 0)) == "AlphaBeta(alpha=1.0, beta=0.0)"


def test_one_warning_where_the_tail_blows_up() -> None:
    for alpha, beta in ((0.5, -0.1), (-1.0, 0.5), (-1.0, 2.5)):
        with pytest.warns(UserWarning, match="blows up in the tail") as caught:
            AlphaBeta(alpha, beta)
        assert len(caught) == 1
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AlphaBeta(0.2, 0.9)
        AlphaBeta(0.0, 0.0)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, "0.5", None, True, [0.5], torch.tensor(1), torch.tensor(math.nan)]
)
def test_refuses_what_is_no_number(value: object) -> None:
    with pytest.raises(abkd.InputError, match=r"AlphaBeta\.alpha"):
        AlphaBeta(value, 0.5)  # type: ignore[arg-type]
    with pytest.raises(abkd.InputError, match=r"AlphaBeta\.beta"):
        AlphaBeta(0.5, value)  # type: ignore[arg-type]


def test_refuses_settings_with_gradients() -> None:
    with pytest.raises(abkd.InputError, match=r"detach"):
        AlphaBeta(torch.tensor(0.5, requires_grad=True), 0.5)


def test_tensor_settings_are_values_too() -> None:
    one, twin = (AlphaBeta(torch.tensor([[0.2], [0.5]]), 0.7) for _ in range(2))
    assert one == twin
    assert hash(one) == hash(twin)
    assert one != AlphaBeta(torch.tensor([[0.2], [0.6]]), 0.7)
    assert one != AlphaBeta(0.2, 0.7)
