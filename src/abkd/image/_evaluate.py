"""Measuring models on a split, each image read once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from abkd.errors import InputError
from abkd.image._metrics import classification_metrics
from abkd.image._trainer import collate_images
from abkd.teachers import Teacher, logits_of


@torch.no_grad()
def evaluate_models(
    models: Mapping[str, nn.Module],
    dataset: Any,
    *,
    teacher: Teacher | None = None,
    batch_size: int = 256,
    num_workers: int = 0,
    device: torch.device | str | None = None,
) -> dict[str, dict[str, float]]:
    """`classification_metrics` of several models in one pass over a split.

    Args:
        models: by name; "teacher" is taken by the teacher. They are moved to the device and put in eval mode.
        dataset: samples as `collate_images` takes them.
        teacher: measured as well, and the others' `agreement` with it.
        batch_size: images at a time.
        num_workers: of the data loader.
        device: where to run; None is where the first model is.

    Raises:
        InputError: an empty split, a model named "teacher" beside a teacher, classes that differ.
    """
    if len(dataset) == 0:
        raise InputError("the split to evaluate on is empty")
    if teacher is not None and "teacher" in models:
        raise InputError("'teacher' is the teacher's own name in the result: name the model otherwise")
    place = _device_of(models) if device is None else torch.device(device)
    for model in models.values():
        model.to(place).eval()
    if teacher is not None:
        teacher.to(place)
    logits: dict[str, list[Tensor]] = {name: [] for name in models}
    taught: list[Tensor] = []
    labels: list[Tensor] = []
    loader: Any = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate_images)
    for batch in loader:
        images = batch["pixel_values"].to(place)
        labels.append(batch["labels"])
        for name, model in models.items():
            logits[name].append(logits_of(model(images)).float().cpu())
        if teacher is not None:
            taught.append(teacher(images).float().cpu())
    truth = torch.cat(labels)
    target = torch.cat(taught) if taught else None
    measured = {name: classification_metrics(torch.cat(parts), truth, target) for name, parts in logits.items()}
    if target is not None:
        measured["teacher"] = classification_metrics(target, truth)
    return measured


def _device_of(models: Mapping[str, nn.Module]) -> torch.device:
    for model in models.values():
        for parameter in model.parameters():
            return parameter.device
    return torch.device("cpu")
