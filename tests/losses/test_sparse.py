"""Sparse teachers: exactness at k = V, the bounds that are claimed, gradients, the fused form, and bad targets."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from linear_toys import assert_same, toy

import abkd
from abkd import AlphaBeta, ForwardKL, ReverseKL, divergence_loss
from abkd.divergences import ALL
from abkd.losses import SparseTargets
from abkd.losses._sparse import degree

D = AlphaBeta(0.2, 0.7)
pytestmark = pytest.mark.filterwarnings("ignore:.*blows up in the tail")
members = pytest.mark.parametrize("d", ALL, ids=lambda d: d.key)


def rows(count: int = 400, classes: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of logits from flat to peaked, from far apart to nearly equal."""
    scale = torch.tensor([0.3, 1.0, 3.0, 8.0], dtype=torch.float64).repeat(count // 4)[:, None]
    student, teacher = torch.randn(2, count, classes, dtype=torch.float64) * scale
    return torch.where(torch.rand(count, 1) < 0.5, student, teacher + 0.3 * student), teacher


@members
def test_all_classes_are_the_dense_divergence(d: abkd.Divergence) -> None:
    student, teacher = rows()
    student.requires_grad_()
    ids = torch.arange(12).expand(400, 12)  # by id: the other order that is one
    for targets in (
        SparseTargets.from_logits(teacher, 12),
        SparseTargets(ids, teacher.log_softmax(-1), torch.full((400,), -torch.inf)),
    ):
        got, expected = divergence_loss(student, targets, d), divergence_loss(student, teacher, d)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
        slopes = (torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (got, expected))
        torch.testing.assert_close(*slopes, rtol=1e-7, atol=1e-10)


BOUNDED = [
    AlphaBeta(1, 0), AlphaBeta(0, 1), AlphaBeta(0.5, 0.5), D, AlphaBeta(0.1, 0.1), AlphaBeta(0, 0.5),
    abkd.JensenShannon(0.3), abkd.SkewForwardKL(0.1), abkd.SkewReverseKL(0.1), abkd.Hellinger(),
    abkd.TotalVariation(), abkd.Jeffreys(), abkd.Renyi(0.5),
]  # fmt: skip


@pytest.mark.parametrize("d", BOUNDED, ids=str)
@pytest.mark.parametrize("k", [1, 3, 10])
def test_the_bucket_never_exceeds_the_full_divergence(d: abkd.Divergence, k: int) -> None:
    student, teacher = rows()
    full = divergence_loss(student, teacher, d, reduction="none")
    bucket = divergence_loss(student, SparseTargets.from_logits(teacher, k), d, reduction="none", tail="bucket")
    assert bool((bucket <= full * (1 + 1e-9) + 1e-12).all())


@pytest.mark.parametrize(
    ("alpha", "beta"),
    [(0.2, 0.7), (0.1, 0.1), (0.5, 0.5), (1.0, 1.0), (1.5, 0.5), (0.2, 1.3), (0.0, 0.5)],
    ids=str,
)
def test_the_power_bucket_never_exceeds_the_full_divergence(alpha: float, beta: float) -> None:
    student, teacher = rows()
    d = AlphaBeta(alpha, beta)
    full = divergence_loss(student, teacher, d, reduction="none")
    for k in (1, 3, 10):
        targets = SparseTargets.from_logits(teacher, k, power=alpha + beta)
        bucket = divergence_loss(student, targets, d, reduction="none", tail="power-bucket")
        assert bool((bucket <= full * (1 + 1e-9) + 1e-12).all())


def test_the_plain_bucket_is_no_bound_above_degree_one_and_refused() -> None:
    _, teacher = rows()
    student = torch.randn_like(teacher)
    with pytest.raises(abkd.InputError, match=r"is above 1, so it is refused.*power=s.*power-bucket"):
        divergence_loss(student, SparseTargets.from_logits(teacher, 3), AlphaBeta(1, 1))
    with pytest.raises(abkd.InputError, match="refused"):
        divergence_loss(student, SparseTargets.from_logits(teacher, 3), abkd.SquaredEuclidean(), tail="bucket")
    lower = SparseTargets.from_logits(teacher, 3, power=0.9)  # tighter than the bucket, so taken where it is there
    by_default, bucket, powered = (
        float(divergence_loss(student, lower, D, tail=tail)) for tail in (None, "bucket", "power-bucket")
    )
    assert bucket < by_default == powered <= float(divergence_loss(student, teacher, D))
    targets = SparseTargets.from_logits(teacher, 3, power=2.0)
    torch.testing.assert_close(
        divergence_loss(student, targets, AlphaBeta(1, 1)),
        divergence_loss(student, targets, AlphaBeta(1, 1), tail="power-bucket"),
    )
    with pytest.raises(abkd.InputError, match=r"needs targets with power=1\.5, got power 2"):
        divergence_loss(student, targets, AlphaBeta(1, 0.5), tail="power-bucket")
    some = SparseTargets.from_logits(teacher[:2], None, tail_mass=0.05)
    whole = SparseTargets.from_logits(teacher[2:4], 12)
    pad = torch.nn.functional.pad
    mixed = SparseTargets(
        torch.cat([pad(some.ids, (0, 12 - some.ids.shape[1]), value=-1), whole.ids]),
        torch.cat([pad(some.log_probs, (0, 12 - some.ids.shape[1]), value=-torch.inf), whole.log_probs]),
        torch.cat([some.log_tail, whole.log_tail]),
    )
    with pytest.raises(abkd.InputError, match="refused"):
        divergence_loss(student[:4], mixed, AlphaBeta(1, 1))
    kept = torch.tensor([False, False, True, True])
    full = divergence_loss(student[2:4], teacher[2:4], AlphaBeta(1, 1))
    torch.testing.assert_close(divergence_loss(student[:4], mixed, AlphaBeta(1, 1), mask=kept), full)


def test_truncation_is_refused() -> None:
    """PEERS 12: under top-k reverse KL the student's mass escapes."""
    student, teacher = rows()
    targets = SparseTargets.from_logits(teacher, 3)
    with pytest.raises(abkd.InputError, match="truncation is refused"):
        divergence_loss(student, targets, ReverseKL(), tail="truncate")  # type: ignore[arg-type]
    with pytest.raises(abkd.InputError, match="make up 1 together; truncated"):
        divergence_loss(student, dataclasses.replace(targets, log_tail=torch.full((400,), -torch.inf)), ReverseKL())


@pytest.mark.parametrize("tail", ["bucket", "power-bucket", "renormalise"])
@pytest.mark.parametrize("d", [D, ForwardKL(), ReverseKL(), abkd.JensenShannon(0.3), AlphaBeta(1.2, 0.5)], ids=str)
def test_the_gradient_is_that_of_the_value(tail: Any, d: abkd.Divergence) -> None:
    s = float(degree(d))
    if tail == "bucket" and s > 1:
        return
    student, teacher = torch.randn(2, 5, 9, dtype=torch.float64)
    targets = SparseTargets.from_logits(teacher, 3, power=s, temperature=1.7)
    assert torch.autograd.gradcheck(
        lambda z: divergence_loss(z, targets, d, reduction="none", tail=tail, temperature=1.7),
        (student.requires_grad_(),),
    )


def test_student_mass_that_leaves_the_entries_costs() -> None:
    """PEERS 12: the tail's class pushes it back; renormalised entries cannot see it."""
    teacher = torch.tensor([[3.0, 2.0, 0.0, 0.0, 0.0, 0.0]])
    student = torch.tensor([[1.0, 0.0, 4.0, 4.0, 4.0, 4.0]], requires_grad=True)
    targets = SparseTargets.from_logits(teacher, 2)
    (slope,) = torch.autograd.grad(divergence_loss(student, targets, ReverseKL()), student)
    assert bool((slope[0, 2:] > 0).all())
    (slope,) = torch.autograd.grad(divergence_loss(student, targets, ReverseKL(), tail="renormalise"), student)
    assert bool((slope[0, 2:] == 0).all())


def test_proportional_is_the_bucket_at_degree_one() -> None:
    student, teacher = rows()
    targets = SparseTargets.from_logits(teacher, 3)
    for d in (ForwardKL(), ReverseKL(), abkd.JensenShannon(0.3)):
        one, other = (divergence_loss(student, targets, d, tail=tail) for tail in ("bucket", "proportional"))
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)


def test_entries_by_tail_mass() -> None:
    _, teacher = rows()
    targets = SparseTargets.from_logits(teacher, None, tail_mass=0.1)
    kept = (targets.ids >= 0).sum(-1)
    assert kept.min() < kept.max()
    assert bool((targets.log_tail.exp() <= 0.1 + 1e-9).all())
    fewer = targets.log_tail.exp() + targets.log_probs.masked_fill(targets.ids < 0, math.inf).amin(-1).exp()
    assert bool((fewer > 0.1).all()), "one entry less would leave more than that to the tail"
    assert int(SparseTargets.from_logits(teacher, 4, tail_mass=0.001).ids.shape[-1]) == 4
    student = torch.randn_like(teacher).requires_grad_()
    for tail in ("bucket", "renormalise", "proportional"):
        each = divergence_loss(student, targets, D, reduction="none", tail=tail)
        for i in range(0, 400, 57):
            k = int(kept[i])
            one = SparseTargets(targets.ids[i, :k], targets.log_probs[i, :k], targets.log_tail[i])
            torch.testing.assert_close(each[i], divergence_loss(student[i], one, D, tail=tail))


@members
@pytest.mark.parametrize("tail", ["bucket", "renormalise", "proportional"])
def test_the_fused_form_is_the_eager_one(d: abkd.Divergence, tail: Any) -> None:
    if tail == "bucket" and isinstance(d, abkd.SquaredEuclidean):
        return
    t = toy((4, 5))
    t.options = {"mask": t.mask, "chunk_size": 6}
    targets = SparseTargets.from_logits(t.teacher_logits, 8, tail_mass=0.05)
    z = t.hidden @ t.weight.T + t.bias
    assert_same(t.fused(d, targets, tail=tail), divergence_loss(z, targets, d, tail=tail, mask=t.mask), t.inputs, 1e-9)


def test_the_fused_form_with_power_temperature_labels_and_softcap() -> None:
    t = toy()
    t.options = {
        "labels": t.labels,
        "ce_weight": 0.4,
        "softcap": 3.0,
        "logit_scale": 0.7,
        "temperature": 2.0,
        "chunk_size": 6,
    }
    d = AlphaBeta(1, 0.5)
    targets = SparseTargets.from_logits(t.teacher_logits, 8, power=1.5, temperature=2.0)
    z = 3 * torch.tanh(0.7 * (t.hidden @ t.weight.T + t.bias) / 3)
    expected = divergence_loss(z, targets, d, temperature=2.0, mask=t.labels != -100)
    assert_same(t.fused(d, targets), expected + 0.4 * torch.nn.functional.cross_entropy(z, t.labels), t.inputs, 1e-9)


def test_settings_for_each_token_and_masks() -> None:
    student, teacher = torch.randn(2, 3, 4, 9, dtype=torch.float64)
    targets = SparseTargets.from_logits(teacher, 3)
    alpha = torch.rand(3, 4, 1) * 0.5
    mask = torch.rand(3, 4) < 0.6
    each = divergence_loss(student, targets, AlphaBeta(alpha, 0.4), reduction="none", mask=mask)
    for i in range(3):
        for j in range(4):
            one = SparseTargets(targets.ids[i, j], targets.log_probs[i, j], targets.log_tail[i, j])
            expected = divergence_loss(student[i, j], one, AlphaBeta(alpha[i, j].double().item(), 0.4))
            torch.testing.assert_close(each[i, j], expected * mask[i, j])


def test_degrees() -> None:
    assert float(degree(D)) == pytest.approx(0.9)
    assert float(degree(abkd.SquaredEuclidean())) == pytest.approx(2)
    for d in (ForwardKL(), abkd.Hellinger(), abkd.JensenShannon(0.3), abkd.Renyi(0.5)):
        assert float(degree(d)) == pytest.approx(1)
    assert degree(0.5 * ForwardKL() + 1.0 * abkd.SquaredEuclidean()) is None


def changed(**fields: Any) -> SparseTargets:
    targets = SparseTargets.from_logits(torch.arange(12.0).view(2, 6), 3)
    return dataclasses.replace(targets, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ids": torch.tensor([[5, 4, 9], [5, 4, 3]])}, r"values in 0\.\.5.*token index 0.*ids \[5, 4, 9\]"),
        ({"ids": torch.tensor([[5, 4, 3], [5, -2, 3]])}, r"values in 0\.\.5.*token index 1"),
        ({"ids": torch.tensor([[5, 4, 3], [5, 5, 3]])}, r"each id once.*token index 1"),
        ({"ids": torch.tensor([[3, 5, 4], [5, 4, 3]]), "log_probs": torch.tensor([[0.1, 0.6, 0.25]] * 2).log(),
          "log_tail": torch.tensor([0.05, 0.05]).log()}, "entries in order"),
        ({"ids": torch.tensor([[5, 4, 3], [-1, 5, 3]])}, r"first entry of a token.*token index 1"),
        ({"ids": torch.full((2, 3), -1), "log_tail": torch.zeros(2)}, r"first entry of a token.*token index 0"),
        ({"log_tail": torch.tensor([0.3, math.nan])}, r"log_tail.*token index 0"),
        ({"log_tail": torch.tensor([-5.0, math.nan])}, r"not NaN.*token index 1"),
        ({"log_tail": torch.tensor([-0.1, -0.1])}, "make up 1 together"),
        ({"log_probs": torch.tensor([[-0.4, math.nan, -3.0]]).repeat(2, 1)}, "log_probs: expected log-probabilities"),
        ({"temperature": 2.0}, "made at temperature 2"),
    ],
    ids=lambda value: str(value)[:28],
)  # fmt: skip
def test_what_the_targets_hold_is_looked_at(fields: dict[str, Any], message: str) -> None:
    targets = changed(**fields)
    with pytest.raises(abkd.InputError, match=message):
        divergence_loss(torch.zeros(2, 6), targets, D)
    t = toy((2,), 6, bias=False)
    with pytest.raises(abkd.InputError, match=message):
        t.fused(D, targets)


def test_ids_of_a_narrow_kind() -> None:
    logits = torch.randn(4, 256)
    logits[:, 255] = 9.0
    wide = SparseTargets.from_logits(logits, 3)
    narrow = dataclasses.replace(wide, ids=wide.ids.to(torch.uint8))
    student = torch.randn(4, 256)
    assert divergence_loss(student, narrow, D) == divergence_loss(student, wide, D)


def test_no_tokens_by_tail_mass() -> None:
    targets = SparseTargets.from_logits(torch.zeros(0, 6), 3, tail_mass=0.1)
    assert targets.ids.shape == (0, 1)
    assert divergence_loss(torch.zeros(0, 6), targets, D) == 0


def test_masked_tokens_may_hold_anything() -> None:
    targets = changed(log_tail=torch.tensor([-5.0, math.nan]))
    with pytest.raises(abkd.InputError):
        divergence_loss(torch.zeros(2, 6), targets, D)
    targets = changed(ids=torch.tensor([[5, 4, 3], [9, 9, 9]]))
    assert divergence_loss(torch.zeros(2, 6), targets, D, mask=torch.tensor([True, False])).isfinite()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: changed(ids=torch.zeros(2, 3)), "ids: expected an integer tensor"),
        (lambda: changed(ids=torch.zeros(2, 4).long()), "one shape"),
        (lambda: changed(log_tail=torch.zeros(3)), "log_tail: expected shape"),
        (lambda: changed(log_tail=torch.zeros(2).long()), "log_tail: expected a floating tensor"),
        (lambda: changed(power=1.5), "power and log_power_tail come together"),
        (lambda: SparseTargets.from_logits(torch.zeros(2, 6), None), "give k, or tail_mass"),
        (lambda: SparseTargets.from_logits(torch.zeros(2, 6), 0), "k: expected"),
        (lambda: SparseTargets.from_logits(torch.zeros(2, 6), 3, tail_mass=1.5), "tail_mass"),
        (lambda: divergence_loss(torch.zeros(3, 6), changed(), D), "leading axes"),
        (lambda: divergence_loss(torch.zeros(2, 6), changed(), D, support="shared"), "shared"),
        (lambda: divergence_loss(torch.zeros(2, 6), changed(), D, tail="buckets"), "bucket"),
        (lambda: divergence_loss(torch.zeros(2, 6), torch.zeros(2, 6), D, tail="bucket"), "only serves SparseTargets"),
        (lambda: divergence_loss(torch.zeros(2, 6), changed(), abkd.LogitMSE(), tail="power-bucket"), "homogeneous"),
    ],
)
def test_bad_arguments(make: Any, message: str) -> None:
    with pytest.raises(abkd.InputError, match=message):
        make()


def test_infinite_divergences_name_the_token_and_the_class() -> None:
    targets = changed()
    student = torch.zeros(2, 6)
    student[1, 4] = -torch.inf
    with pytest.raises(abkd.InfiniteDivergenceError, match=r"token index 1: the student rules out class 4"):
        divergence_loss(student, targets, ForwardKL())
    assert divergence_loss(student, targets, ForwardKL(), log_floor=-30.0).isfinite()
    peaked = SparseTargets.from_logits(torch.tensor([[9.0, 1.0, -torch.inf]]), 2)
    with pytest.raises(abkd.InfiniteDivergenceError, match="the teacher rules out all classes of the tail"):
        divergence_loss(torch.zeros(1, 3), peaked, ReverseKL())
    student[0, 0] = math.nan
    with pytest.raises(abkd.InputError, match="nan at token index 0, class 0"):
        divergence_loss(student, targets, D)
