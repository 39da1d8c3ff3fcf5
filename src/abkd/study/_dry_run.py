"""Two steps of every method on made-up images: does the whole of a plan hold together?"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from abkd.study._image import ImagePlan

if TYPE_CHECKING:
    from abkd.image import ImageRun, ModelChoice
    from abkd.image.data import ImageData

Facts = tuple[int, int, tuple[int, int]]
"""Classes, channels and (height, width)."""

_BATCH = 4
_STEPS = 2


class MadeUpImages(Dataset[dict[str, Tensor | int]]):
    """Noise in [0, 1] with labels that go round; the same images every time.

    Args:
        size: How many.
        classes: Labels are 0 .. classes - 1.
        channels: C.
        height, width: In pixels.
    """

    def __init__(self, size: int, classes: int, channels: int, height: int, width: int) -> None:
        generator = torch.Generator().manual_seed(size)
        self._pixels = torch.rand(size, channels, height, width, generator=generator)
        self._classes = classes

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        return {"pixel_values": self._pixels[index], "labels": index % self._classes}

    def set_epoch(self, epoch: int) -> None:
        """Nothing changes from epoch to epoch."""


def dry_run_images(
    plan: ImagePlan,
    folder: str | os.PathLike[str],
    *,
    facts: Facts | None,
    report: Callable[[str], None] | None = None,
) -> None:
    """Take two steps with every method of a plan, on made-up images, with models as they are first built.

    Neither data nor weights are read: a teacher that is to be trained or loaded has random weights here.

    Args:
        plan: What would be run.
        folder: Where the short runs go.
        facts: Classes, channels and size of the images; None reads one image of the real data.
        report: Is told the name of every method that is through.

    Raises:
        AbkdError: What would have stopped the real run.
    """
    from abkd.image import load_student, run_image
    from abkd.teachers import LiveTeacher

    data = made_up_data(facts or _facts_of(plan.example))
    place = Path(folder)
    chosen = plan.example.teacher
    if plan.teacher is not None:
        chosen = plan.teacher.student
        run_image(_short(plan.teacher), place / "teacher", progress=False, data=data)
    teacher = LiveTeacher.frozen(load_student(_untrained(chosen), data)) if chosen is not None else None
    for method in plan.methods:
        settings = replace(_short(plan.runs[method][plan.seeds[0]]), teacher=chosen)
        run_image(settings, place / method, progress=False, data=data, teacher=teacher)
        if report is not None:
            report(method)


def made_up_data(facts: Facts) -> ImageData:
    """Data of the given classes, channels and size, just enough for two steps and an evaluation."""
    from abkd.image.data import ImageData

    classes, channels, (height, width) = facts
    size = _BATCH * _STEPS

    def split(images: int) -> MadeUpImages:
        return MadeUpImages(images, classes, channels, height, width)

    return ImageData(
        name="made-up",
        train=split(size),
        validation=split(_BATCH),
        test=split(_BATCH + 1),
        num_classes=classes,
        class_names=tuple(str(label) for label in range(classes)),
        channels=channels,
        image_size=(height, width),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


def _short(settings: ImageRun) -> ImageRun:
    """The run with two small steps of one epoch, and without outside weights."""
    training = {
        **settings.training,
        "num_train_epochs": 1,
        "per_device_train_batch_size": _BATCH,
        "per_device_eval_batch_size": _BATCH,
        "gradient_accumulation_steps": 1,
    }
    training.pop("max_steps", None)
    return replace(settings, student=_untrained(settings.student), training=training)


def _untrained(choice: ModelChoice) -> ModelChoice:
    """The model without weights from a file or a download. A folder stays: its weights are at hand."""
    kept = {key: value for key, value in choice.options.items() if key not in {"weights", "pretrained"}}
    return replace(choice, options=kept)


def _facts_of(settings: ImageRun) -> Facts:
    from abkd.image.data import load_data

    data = load_data(settings.data.name, **settings.data.options)
    return data.num_classes, data.channels, data.image_size
