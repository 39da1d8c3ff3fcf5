"""Gradients in half precision, against float64 from the same half-precision logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from abkd import ForwardKL, divergence_loss, linear_divergence_loss
from abkd.losses import DenseTargets, HiddenTargets, SparseTargets, _compiled
from abkd.losses._attach import attached

compiled = pytest.param(
    {"backend": "compiled"},
    marks=pytest.mark.skipif(
        _compiled.missing_for_compiling(torch.device("cpu")) is not None, reason="needs a C++ compiler"
    ),
    id="compiled",
)
walks = pytest.mark.parametrize(
    "walk",
    [pytest.param({"backend": "eager"}, id="eager"), compiled, pytest.param({"vocab_chunk_size": 100}, id="tiled")],
)


def error(got: Tensor | None, true: Tensor) -> float:
    assert got is not None
    return float((got.double() - true).norm() / true.norm())


def head(
    tokens: int, classes: int, width: int, scale: float, dtype: torch.dtype, confidence: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states that point to their labels as far as `confidence` goes, a weight, and the labels."""
    weight = scale * width**0.5 * torch.nn.functional.normalize(torch.randn(classes, width))
    labels = torch.randint(classes, (tokens,))
    hidden = 0.3 * torch.randn(tokens, width) + confidence * weight[labels] / scale
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), labels


def pulled_back(hidden: Tensor, weight: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients in hidden states and weight from that in the logits, in float64."""
    return slope @ weight.detach().double(), slope.T @ hidden.detach().double()


def true_slope(z: Tensor, teacher: Tensor) -> Tensor:
    """Of the sum of forward KL over the tokens, in float64."""
    return torch.softmax(z.double(), -1) - torch.softmax(teacher.double(), -1)


@walks
@pytest.mark.parametrize(
    ("scale", "count", "factor"),
    [
        (1.0, 70_000, 65536.0),
        (1.0, 1_000_000, 2.0**24),
        (1.0, None, 65536.0),
        (0.02, 4096, 32768.0),
    ],
    ids=str,
)
def test_float16_under_a_gradient_scaler(walk: Any, scale: float, count: int | None, factor: float) -> None:
    hidden, weight, _ = head(64, 500, 64, scale, torch.float16)
    teacher = scale * torch.randn(64, 500)
    loss = linear_divergence_loss(
        hidden, weight, DenseTargets(teacher), ForwardKL(), num_items_in_batch=count, chunk_size=16, **walk
    )
    (loss * factor).backward()
    slope = true_slope((hidden @ weight.T).detach(), teacher) * factor / (count or 64)
    true = pulled_back(hidden, weight, slope)
    assert error(hidden.grad, true[0]) < 5e-3
    assert error(weight.grad, true[1]) < 5e-3


@walks
def test_float16_with_a_weight_for_each_token(walk: Any) -> None:
    hidden, weight, _ = head(64, 500, 64, 1.0, torch.float16)
    teacher, each = torch.randn(64, 500), torch.rand(64) * 65536 / 70_000
    loss = linear_divergence_loss(hidden, weight, DenseTargets(teacher), ForwardKL(), reduction="none", **walk)
    (loss * each).sum().backward()
    true = pulled_back(hidden, weight, true_slope((hidden @ weight.T).detach(), teacher) * each[:, None].double())
    assert error(hidden.grad, true[0]) < 5e-3
    assert error(weight.grad, true[1]) < 5e-3


@pytest.mark.parametrize("walk", [{}, {"vocab_chunk_size": 5}], ids=["blocks", "tiles"])
def test_sums_over_tokens_beyond_float16(walk: Any) -> None:
    hidden = (30 * torch.randn(8192, 8).abs()).half()
    weight = torch.zeros(16, 8).half().requires_grad_()
    teacher = torch.full((8192, 16), -20.0)
    teacher[:, 0] = 0
    linear_divergence_loss(hidden, weight, DenseTargets(teacher), ForwardKL(), **walk).backward()
    slope = true_slope(torch.zeros(8192, 16), teacher)
    true = slope.T @ hidden.double()
    assert float(true.abs().max()) > 65504
    assert error(weight.grad, true / 8192) < 5e-3


@pytest.mark.parametrize("sparse", [False, True])
def test_the_loss_of_float16_logits_under_a_gradient_scaler(sparse: bool) -> None:
    z, teacher = torch.randn(8, 50).half().requires_grad_(), torch.randn(8, 50)
    targets = SparseTargets.from_logits(teacher, 50) if sparse else teacher
    (divergence_loss(z, targets, ForwardKL(), reduction="sum") * 65536).backward()
    assert error(z.grad, true_slope(z.detach(), teacher) * 65536) < 5e-3


def test_a_wide_gradient_is_rounded_once() -> None:
    source, gradient = torch.zeros(20_000, 3).bfloat16().requires_grad_(), torch.randn(20_000, 3)
    for factor in (1.0, 0.3):
        (attached(torch.zeros(()), (source,), (gradient,), torch.tensor(0.7)) * factor).backward()
        torch.testing.assert_close(source.grad, (gradient * (0.7 * torch.tensor(factor))).bfloat16())
        source.grad = None


@walks
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("confidence", "mean"), [(0.65, 0.99), (0.8, 0.999)], ids=["0.99", "0.999"])
@pytest.mark.parametrize("kind", ["labels alone", "dense", "sparse"])
def test_the_label_of_a_confident_student(
    walk: Any, dtype: torch.dtype, confidence: float, mean: float, kind: str
) -> None:
    if kind == "sparse" and "vocab_chunk_size" in walk:
        pytest.skip("tiles serve no sparse targets")
    hidden, weight, labels = head(64, 500, 64, 0.3, dtype, confidence)
    z = (hidden @ weight.T).detach()
    q = torch.softmax(z.double(), -1)
    assert 1 - float(q.gather(-1, labels[:, None]).mean()) == pytest.approx(1 - mean, rel=0.5)
    slope = q.scatter_add(-1, labels[:, None], -torch.ones(64, 1).double()) / 64
    targets = {  # the student itself: no gradient of its own
        "labels alone": None,
        "dense": DenseTargets(z),
        "sparse": SparseTargets.from_logits(z.float(), 20),
    }[kind]
    tail = "proportional" if kind == "sparse" and walk == {"backend": "compiled"} else None  # the only one compiled
    loss = linear_divergence_loss(
        hidden, weight, targets, None if targets is None else ForwardKL(),
        labels=labels, ce_weight=1.0, kd_weight=0.0 if targets is None else 1.0, tail=tail, **walk,
    )  # fmt: skip
    (loss * 256).backward()
    true = pulled_back(hidden, weight, 256 * slope)
    assert error(hidden.grad, true[0]) < 1e-2
    assert error(weight.grad, true[1]) < 1e-2


@pytest.mark.parametrize("tile", [64, 250])
def test_tiles_add_up_hidden_states_in_float32(tile: int) -> None:
    hidden, weight, _ = head(16, 16_000, 64, 0.1, torch.bfloat16)
    teacher_hidden, teacher_weight, _ = head(16, 16_000, 64, 0.1, torch.bfloat16)
    z, z_teacher = (hidden @ weight.T).detach(), (teacher_hidden @ teacher_weight.T).detach()
    targets = HiddenTargets(teacher_hidden.detach(), teacher_weight.detach())
    linear_divergence_loss(hidden, weight, targets, ForwardKL(), vocab_chunk_size=tile).backward()
    true, _ = pulled_back(hidden, weight, true_slope(z, z_teacher) / 16)
    assert error(hidden.grad, true) < 3e-3


@pytest.mark.parametrize("softcap", [None, 60.0])
def test_cross_entropy_by_tiles_is_never_negative(softcap: float | None) -> None:
    hidden, weight, labels = head(64, 500, 64, 0.3, torch.bfloat16, 0.9)
    options: Any = {"labels": labels, "ce_weight": 1.0, "kd_weight": 0.0, "reduction": "none", "softcap": softcap}
    tiles, blocks = (
        linear_divergence_loss(hidden, weight, None, None, vocab_chunk_size=size, **options).detach()
        for size in (100, None)
    )
    assert float(tiles.min()) >= 0
    torch.testing.assert_close(tiles, blocks, rtol=1e-4, atol=1e-5)
