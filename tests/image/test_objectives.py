"""The image objectives: their equations, published defaults, calibration, and extreme logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import abkd
from abkd.image.objectives import DIST, DKD, KD, LSD, METHODS, SFT, TTM, WTTM, by_name

AB = abkd.AlphaBeta(0.8, 0.3)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = torch.randn(2, 6, 9, dtype=torch.float64) * 2
    return student.requires_grad_(), teacher, torch.randint(9, (6,))


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum(1)


def softmax(z: Tensor, temperature: float = 1.0) -> Tensor:
    return F.softmax(z / temperature, 1)


def test_sft_is_cross_entropy(batch: Any) -> None:
    student, _, labels = batch
    torch.testing.assert_close(SFT()(student, None, labels), F.cross_entropy(student, labels))


def test_kd(batch: Any) -> None:
    student, teacher, labels = batch
    expected = 0.1 * F.cross_entropy(student, labels) + 0.9 * 16 * kl(softmax(teacher, 4), softmax(student, 4)).mean()
    torch.testing.assert_close(KD()(student, teacher, labels), expected)


def test_abkd_has_no_square_of_the_temperature(batch: Any) -> None:
    student, teacher, labels = batch
    expected = F.cross_entropy(student, labels) + 32 * abkd.divergence_loss(student, teacher, AB, temperature=4.0)
    torch.testing.assert_close(by_name("abkd", divergence=AB)(student, teacher, labels), expected)


@pytest.mark.parametrize("other", [abkd.ForwardKL(), AB], ids=["dkd", "abdkd"])
def test_dkd(batch: Any, other: abkd.Divergence) -> None:
    student, teacher, labels = batch
    p, q = softmax(teacher, 4), softmax(student, 4)
    own_p, own_q = (x.gather(1, labels[:, None])[:, 0] for x in (p, q))
    target = own_p * (own_p / own_q).log() + (1 - own_p) * ((1 - own_p) / (1 - own_q)).log()
    hidden = F.one_hot(labels, 9).bool()
    rest = abkd.divergence_loss(
        student.masked_fill(hidden, -torch.inf),
        teacher.masked_fill(hidden, -torch.inf),
        other,
        temperature=4.0,
        reduction="none",
    )
    plain = F.cross_entropy(student, labels)
    for epoch, ramp in ((None, 1.0), (0.0, 0.0), (5.0, 0.25), (40.0, 1.0)):
        loss = DKD(divergence=other)(student, teacher, labels, epoch=epoch)
        torch.testing.assert_close(loss, plain + ramp * 16 * (target + 8 * rest).mean())


def test_dkd_takes_the_identity_of_the_paper_apart(batch: Any) -> None:
    """KL over all classes = target part + (1 - p_target) x other part (eq. 5 of the paper)."""
    student, teacher, labels = batch
    p, q = softmax(teacher, 4), softmax(student, 4)
    outside = 1 - p.gather(1, labels[:, None])[:, 0]
    target = DKD(ce_weight=0, other_weight=0, warmup_epochs=0)(student, teacher, labels, reduction="none") / 16
    others = (
        DKD(ce_weight=0, target_weight=0, other_weight=1, warmup_epochs=0)(student, teacher, labels, reduction="none")
        / 16
    )
    torch.testing.assert_close(target + outside * others, kl(p, q))


@pytest.mark.parametrize("d", [abkd.ForwardKL(), AB], ids=["lsd", "ablsd"])
def test_lsd(batch: Any, d: abkd.Divergence) -> None:
    student, teacher, labels = batch
    z_s, z_t = ((z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7) for z in (student, teacher))
    expected = 0.1 * F.cross_entropy(student, labels) + 9 * 4 * abkd.divergence_loss(z_s, z_t, d, temperature=2.0)
    torch.testing.assert_close(LSD(divergence=d)(student, teacher, labels), expected)


@pytest.mark.parametrize("d", [abkd.ForwardKL(), AB], ids=["ttm", "abttm"])
def test_ttm_and_wttm(batch: Any, d: abkd.Divergence) -> None:
    student, teacher, labels = batch
    power = softmax(teacher) ** 0.1
    each = abkd.divergence_loss(student, (power / power.sum(1, keepdim=True)).log(), d, reduction="none")
    plain = F.cross_entropy(student, labels)
    torch.testing.assert_close(TTM(divergence=d)(student, teacher, labels), plain + 45 * each.mean())
    torch.testing.assert_close(
        WTTM(divergence=d, kd_weight=2.0)(student, teacher, labels), plain + 2 * (power.sum(1) * each).mean()
    )


def test_dist(batch: Any) -> None:
    student, teacher, labels = batch
    p, q = softmax(teacher, 4), softmax(student, 4)

    def pearson(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([torch.corrcoef(torch.stack([x, y]))[0, 1] for x, y in zip(a, b, strict=True)])

    expected = F.cross_entropy(student, labels) + 16 * (
        2 * (1 - pearson(p, q)).mean() + 2 * (1 - pearson(p.T, q.T)).mean()
    )
    torch.testing.assert_close(DIST()(student, teacher, labels), expected, rtol=1e-5, atol=0)


def test_dist_adds_its_epsilon_to_the_product_of_the_norms() -> None:
    """As the published code does; it tells where the probabilities hardly differ."""
    student, teacher = 1e-4 * torch.randn(2, 4, 5, dtype=torch.float64)
    loss = DIST(ce_weight=0.0, intra_weight=0.0)(student, teacher, torch.zeros(4).long(), reduction="none")
    q, p = softmax(student, 4) - 0.2, softmax(teacher, 4) - 0.2
    correlation = (q * p).sum(1) / (q.norm(dim=1) * p.norm(dim=1) + 1e-8)
    assert correlation.abs().max() < 0.1
    torch.testing.assert_close(loss, 16 * 2 * (1 - correlation), rtol=1e-9, atol=0)


def test_dist_of_one_image_compares_classes_alone(batch: Any) -> None:
    student, teacher, labels = (value[:1] for value in batch)
    loss = DIST()(student, teacher, labels)
    torch.testing.assert_close(loss, DIST(intra_weight=0.0)(student, teacher, labels), rtol=0, atol=0)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str, batch: Any) -> None:
    student, teacher, labels = batch
    objective = by_name(name)
    each = objective(student, teacher, labels, reduction="none", epoch=7.0)
    assert each.shape == (6,)
    torch.testing.assert_close(objective(student, teacher, labels, epoch=7.0), each.mean())
    assert torch.autograd.gradcheck(lambda z: objective(z, teacher, labels, epoch=7.0), (student,))
    (slope,) = torch.autograd.grad(each.sum(), student)
    assert slope.abs().sum(1).min() > 0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_extreme_logits_stay_finite(name: str, dtype: torch.dtype) -> None:
    for scale in (1.0, 1e4):
        student, teacher = ((torch.randn(8, 10) * scale).clamp(-1e4, 1e4).to(dtype) for _ in range(2))
        student[0], teacher[0] = -1e4, 1e4
        student[1, 3], teacher[1, 4] = 1e4, 1e4
        student.requires_grad_()
        loss = by_name(name)(student, teacher, torch.randint(10, (8,)), epoch=30.0)
        loss.backward()
        assert loss.isfinite()
        assert student.grad is not None
        assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_equal_logits_everywhere_stay_finite(name: str) -> None:
    student = torch.zeros(4, 5, requires_grad=True)
    by_name(name)(student, torch.zeros(4, 5), torch.tensor([0, 1, 2, 3])).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_calibrated_methods_at_forward_kl_are_the_plain_ones(batch: Any) -> None:
    student, teacher, labels = batch
    for plain, calibrated in (("dkd", "abdkd"), ("lsd", "ablsd"), ("ttm", "abttm"), ("wttm", "abwttm")):
        torch.testing.assert_close(
            by_name(calibrated, divergence=abkd.AlphaBeta(1, 0))(student, teacher, labels),
            by_name(plain)(student, teacher, labels),
        )


def test_published_defaults() -> None:
    assert METHODS["kd"].build() == KD(0.1, 0.9, abkd.ForwardKL(), 4.0, True)
    assert METHODS["dkd"].build() == DKD(1.0, 1.0, abkd.ForwardKL(), 4.0, 1.0, 8.0, 20.0)
    assert METHODS["lsd"].build() == LSD(0.1, 9.0, abkd.ForwardKL(), 2.0)
    assert METHODS["ablsd"].build() == LSD(0.1, 9.0, abkd.AlphaBeta(0.9, 0.3), 2.0)
    assert METHODS["ttm"].build().gamma == 0.1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("abk", {}, "did you mean 'abkd'"),
        ("ABKD", {}, "unknown method"),
        ("kd", {"temprature": 2}, "did you mean 'temperature'"),
        ("kd", {"temperature": 0}, "above 0"),
        ("kd", {"kd_weight": -1}, "at least 0"),
        ("ttm", {"gamma": math.nan}, "gamma"),
        ("dkd", {"warmup_epochs": -1}, "warmup_epochs"),
        ("dist", {"divergence": AB}, "takes no divergence"),
        ("sft", {"temperature": 2}, "no setting 'temperature'"),
    ],
)
def test_a_wrong_name_or_setting_is_an_error_that_helps(name: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(abkd.InputError, match=says):
        by_name(name, **settings)


@pytest.mark.parametrize(
    ("student", "teacher", "labels", "says"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2).long(), "student has 3, the teacher 4"),
        (torch.zeros(2, 3), None, torch.zeros(2).long(), "needs teacher logits"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 3]), r"values in 0\.\.2, got 3 at index 1"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, -100]), r"values in 0\.\.2, got -100"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3).long(), "labels: expected shape"),
        (torch.zeros(2, 2, 3), torch.zeros(2, 2, 3), torch.zeros(2).long(), r"expected shape \(B, K\)"),
        (torch.zeros(2, 3).long(), torch.zeros(2, 3), torch.zeros(2).long(), "floating"),
        (torch.full((2, 3), math.nan), torch.zeros(2, 3), torch.zeros(2).long(), "nan"),
    ],
)
def test_bad_batches(student: Any, teacher: Any, labels: Any, says: str) -> None:
    with pytest.raises(abkd.AbkdError, match=says):
        KD()(student, teacher, labels)
