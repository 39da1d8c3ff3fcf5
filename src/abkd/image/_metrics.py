"""How well a classifier does on labelled images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abkd.errors import InputError

METRICS = {"accuracy": True, "top5": True, "nll": False, "ece": False, "agreement": True, "loss": False}
"""What an evaluation gives to choose by, and whether more of it is better."""
_BINS = 15


def classification_metrics(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> dict[str, float]:
    """Metrics over a whole split.

    Args:
        logits: the student's (N, K).
        labels: class indices (N,).
        teacher_logits: (N, K), or None to leave `agreement` out.

    Returns:
        `accuracy`: top-1, in [0, 1]. `top5`: the label is among the min(5, K) most likely classes. `nll`:
        mean negative log-likelihood in nats. `ece`: expected calibration error over 15 bins of equal width,
        in [0, 1] (Guo et al. 2017, eq. 3). `agreement`: share of images on which student and teacher choose
        the same class.

    Raises:
        InputError: no images, shapes that do not match, or labels outside [0, K).
    """
    _check(logits, labels, teacher_logits)
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    classes = logits.shape[1]
    confidences = logits.softmax(-1).clamp(max=1 - 2**-24)  # torchmetrics would give 1.0 itself a bin of its own
    metrics = {
        "accuracy": (logits.argmax(-1) == labels).double().mean(),
        "top5": multiclass_accuracy(logits, labels, classes, average="micro", top_k=min(5, classes)),
        "nll": nn.functional.cross_entropy(logits, labels),
        "ece": multiclass_calibration_error(confidences, labels, classes, n_bins=_BINS, norm="l1"),
    }
    if teacher_logits is not None:
        metrics["agreement"] = (logits.argmax(-1) == teacher_logits.argmax(-1)).double().mean()
    return {name: float(value) for name, value in metrics.items()}


def _check(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise InputError(f"expected logits (N, K) and labels (N,), got {tuple(logits.shape)} and {tuple(labels.shape)}")
    if len(labels) == 0:
        raise InputError("there are no images to evaluate on")
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise InputError(f"labels must be in [0, {logits.shape[1]}), got {int(labels.min())} to {int(labels.max())}")
    if teacher_logits is not None and teacher_logits.shape != logits.shape:
        raise InputError(
            f"teacher and student have different shapes: {tuple(teacher_logits.shape)} and "
            f"{tuple(logits.shape)}; they must have the same classes"
        )
