"""Metrics against their definitions."""

import math

import pytest
import torch

from abkd.errors import InputError
from abkd.image import classification_metrics


def random_case(n=200, classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator)
    return logits, torch.randint(classes, (n,), generator=generator), torch.randn(n, classes, generator=generator)


def test_against_the_definitions():
    logits, labels, teacher = random_case()
    metrics = classification_metrics(logits, labels, teacher)
    probabilities = logits.double().softmax(-1)
    chosen = logits.argmax(-1)
    assert metrics["accuracy"] == pytest.approx(float((chosen == labels).double().mean()))
    top5 = sum(int(label) in row.topk(5).indices.tolist() for row, label in zip(logits, labels, strict=True))
    assert metrics["top5"] == pytest.approx(top5 / len(labels))
    nll = -sum(math.log(row[label]) for row, label in zip(probabilities, labels, strict=True)) / len(labels)
    assert metrics["nll"] == pytest.approx(nll, rel=1e-5)
    assert metrics["agreement"] == pytest.approx(float((chosen == teacher.argmax(-1)).double().mean()))


def test_calibration_error_over_fifteen_bins():
    logits, labels, _ = random_case()
    confidence, chosen = logits.softmax(-1).max(-1)
    right = (chosen == labels).double()
    expected = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            gap = abs(float(right[inside].mean()) - float(confidence[inside].double().mean()))
            expected += gap * float(inside.double().mean())
    assert classification_metrics(logits, labels)["ece"] == pytest.approx(expected, abs=1e-6)


def test_perfect_answers_and_few_classes():
    logits = 50 * torch.eye(3)
    metrics = classification_metrics(logits, torch.arange(3), logits)
    assert metrics == pytest.approx({"accuracy": 1, "top5": 1, "nll": 0, "ece": 0, "agreement": 1}, abs=1e-6)
    assert "agreement" not in classification_metrics(logits, torch.arange(3))


def test_half_precision_is_computed_in_single():
    logits, labels, _ = random_case()
    half = classification_metrics(logits.bfloat16(), labels)
    assert half == pytest.approx(classification_metrics(logits.bfloat16().float(), labels))


@pytest.mark.parametrize(
    ("logits", "labels", "teacher", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.long), None, r"logits \(N, K\)"),
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.long), None, r"\(4,\)"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), None, "no images"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), None, r"in \[0, 2\), got 0 to 2"),
        (torch.zeros(3, 2), torch.tensor([0, 1, -1]), None, "got -1 to 1"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 1]), torch.zeros(3, 5), "same classes"),
    ],
)
def test_bad_input(logits, labels, teacher, message):
    with pytest.raises(InputError, match=message):
        classification_metrics(logits, labels, teacher)


def test_a_confidence_of_one_is_in_the_last_bin():
    """Half the images at confidence 1.0, 98 % right; half at 0.97, all right: one bin, 0.985 against 0.99."""
    certain, confident = torch.tensor([40.0, 0.0]), torch.tensor([0.97, 0.03]).log()
    logits = torch.cat([certain.repeat(50, 1), confident.repeat(50, 1)])
    labels = torch.zeros(100, dtype=torch.long)
    labels[0] = 1
    assert classification_metrics(logits, labels)["ece"] == pytest.approx(0.005, abs=1e-6)
