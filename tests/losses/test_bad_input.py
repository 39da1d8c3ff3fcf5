"""What cannot be computed is refused with a message that helps, in this library's own kind of error."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import abkd

S, T = torch.zeros(2, 3, 5), torch.ones(2, 3, 5)
NAN, INF = S.clone(), S.clone()
NAN[1, 2, 3], INF[0, 1, 2] = math.nan, math.inf
EMPTY_ROW = S.clone()
EMPTY_ROW[1, 0] = -math.inf

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("temperature 0", {"temperature": 0.0}, "temperature: expected a finite number above 0, got 0.0"),
    ("temperature below 0", {"temperature": -1}, "temperature"),
    ("temperature NaN", {"temperature": math.nan}, "temperature"),
    ("temperature a word", {"temperature": "1"}, "temperature"),
    ("NaN student", {"student_logits": NAN}, r"student_logits.*nan at token index \(1, 2\), class 3"),
    ("NaN teacher", {"teacher_logits": NAN}, r"teacher_logits.*nan at token index \(1, 2\), class 3"),
    ("infinite student", {"student_logits": INF}, r"student_logits.*inf at token index \(0, 1\), class 2"),
    (
        "empty row of both",
        {"student_logits": EMPTY_ROW, "teacher_logits": EMPTY_ROW},
        r"every class of token index \(1, 0\)",
    ),
    (
        "empty row of student",
        {"student_logits": EMPTY_ROW},
        r"student_logits: every class of token index \(1, 0\)",
    ),
    (
        "empty row of teacher",
        {"teacher_logits": EMPTY_ROW},
        r"teacher_logits: every class of token index \(1, 0\)",
    ),
    ("other classes", {"teacher_logits": torch.ones(2, 3, 6)}, "student has 5, the teacher 6"),
    ("other shape", {"teacher_logits": torch.ones(3, 2, 5)}, "one shape"),
    ("integer student", {"student_logits": S.long()}, "expected floating logits, got dtype torch.int64"),
    ("integer teacher", {"teacher_logits": T.int()}, "expected floating logits, got dtype torch.int32"),
    ("complex student", {"student_logits": S.to(torch.complex64)}, "expected floating logits"),
    ("no tensor", {"student_logits": [[1.0]]}, "expected a tensor, got list"),
    ("no classes", {"student_logits": S[..., :0], "teacher_logits": T[..., :0]}, "V of at least 1"),
    (
        "scalars",
        {"student_logits": torch.tensor(1.0), "teacher_logits": torch.tensor(1.0)},
        "V of at least 1",
    ),
    ("mask shape", {"mask": torch.ones(3, dtype=torch.bool)}, r"mask: expected shape \(2, 3\)"),
    ("mask of numbers", {"mask": torch.ones(2, 3)}, "mask: expected a bool tensor"),
    ("mask a list", {"mask": [[True]]}, "mask: expected a bool tensor"),
    ("reduction", {"reduction": "avg"}, "reduction: 'avg' is not known"),
    ("reduction typo", {"reduction": "men"}, "did you mean 'mean'"),
    ("support", {"support": "all"}, "support: 'all' is not known"),
    ("class for instance", {"divergence": abkd.ForwardKL}, r"write ForwardKL\(\.\.\.\)"),
    ("name for instance", {"divergence": "forward_kl"}, "by_name"),
    ("log_floor above 0", {"log_floor": 1.0}, "log_floor"),
    ("log_floor NaN", {"log_floor": math.nan}, "log_floor"),
    ("count of 0", {"num_items_in_batch": 0}, "num_items_in_batch"),
    ("count with a sum", {"num_items_in_batch": 4, "reduction": "sum"}, "only serves reduction='mean'"),
    (
        "settings shape",
        {"divergence": abkd.AlphaBeta(torch.rand(4, 1), 0.5)},
        r"alpha: expected .* \(2, 3, 1\)",
    ),
    ("settings per class", {"divergence": abkd.AlphaBeta(torch.rand(5), 0.5)}, r"alpha: expected"),
    ("settings in a sum", {"divergence": 0.5 * abkd.AlphaBeta(0.5, torch.rand(9, 1))}, r"beta: expected"),
]


@pytest.mark.parametrize(("changes", "says"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_divergence_loss(changes: dict[str, Any], says: str) -> None:
    arguments = {"student_logits": S, "teacher_logits": T, "divergence": abkd.AlphaBeta(0.5, 0.5)} | changes
    with pytest.raises(abkd.AbkdError, match=says):
        abkd.divergence_loss(**arguments)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (torch.full((2, 3), 5), r"values in 0\.\.4 \(or -100"),
        (torch.full((2, 3), -1), r"got -1 at index \(0, 0\)"),
        (torch.zeros(2, 3), "integer tensor"),
        (torch.zeros(2, dtype=torch.long), r"expected shape \(2, 3\)"),
        ([[0]], "integer tensor"),
    ],
)
def test_labels_of_the_module(labels: Any, says: str) -> None:
    with pytest.raises(abkd.InputError, match=says):
        abkd.ABKDLoss(0.5, 0.5)(S, T, labels)


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0}, {"ce_weight": -1}, {"kd_weight": math.nan}, {"kd_weight": "1"}, {"alpha": math.nan}],
    ids=str,
)
def test_settings_of_the_module(settings: dict[str, Any]) -> None:
    with pytest.raises(abkd.InputError):
        abkd.ABKDLoss(**({"alpha": 0.5, "beta": 0.5} | settings))


@pytest.mark.parametrize(
    "count",
    [torch.tensor(0), torch.tensor(math.nan), torch.tensor([4, 4]), torch.tensor(math.inf), math.inf, -1],
    ids=str,
)
def test_counts_that_are_none(count: Any) -> None:
    with pytest.raises(abkd.InputError, match="num_items_in_batch"):
        abkd.divergence_loss(S, T, abkd.ForwardKL(), num_items_in_batch=count)


def test_numbers_that_no_float_holds() -> None:
    huge = 10**400
    for make in (
        lambda: abkd.AlphaBeta(huge, 1),
        lambda: huge * abkd.ForwardKL(),
        lambda: abkd.divergence_loss(S, T, abkd.ForwardKL(), temperature=huge),
        lambda: abkd.ABKDLoss(0.5, 0.5, kd_weight=huge),
        lambda: abkd.WeightedSum(((1.0, "forward_kl"),)),  # type: ignore[arg-type]
        lambda: abkd.divergences.by_name(None),  # type: ignore[arg-type]
    ):
        with pytest.raises(abkd.InputError):
            make()


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int8], ids=str)
def test_labels_of_any_integer_kind(dtype: torch.dtype) -> None:
    student, teacher = torch.randn(2, 6, 5)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    loss = abkd.ABKDLoss(0.5, 0.5)
    assert loss(student, teacher, labels.to(dtype)) == loss(student, teacher, labels)
    assert loss(student[0], teacher[0], labels[0]) == loss(student[:1], teacher[:1], labels[:1])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16], ids=str)
def test_a_label_that_a_narrow_kind_takes_for_none(dtype: torch.dtype) -> None:
    """In uint8, 156 is -100; int16 is no index."""
    student, teacher = torch.randn(2, 3, 200)
    labels = torch.tensor([156, 1, 199])
    loss = abkd.ABKDLoss(0.5, 0.5)
    assert loss(student, teacher, labels.to(dtype)) == loss(student, teacher, labels)
    fused = [
        abkd.linear_divergence_loss(student, torch.eye(200), None, None, kd_weight=0.0, ce_weight=1.0, labels=kind)
        for kind in (labels, labels.to(dtype))
    ]
    assert fused[0] == fused[1]
