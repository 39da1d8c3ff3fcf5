"""What one image run is, as plain data: it can be written as JSON, compared, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from abkd.errors import InputError, nearest


@dataclass(frozen=True)
class ModelChoice:
    """A model by name, or by the folder that holds one.

    Attributes:
        name: a name that `abkd.image.models.build_model` knows, or a folder: one saved by `save_model`, or a
            run folder, of which the model of the best epoch is taken.
        options: keyword arguments of `build_model` (`widths`, `pretrained`, `weights`, `mean`, `std`,
            `input_size`, ...). The number of classes and channels comes from the data.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class DataChoice:
    """A data set by name or path.

    Attributes:
        name: a name that `abkd.image.data.load_data` knows, or a path.
        options: its keyword arguments: `validation`, `split_seed`, `train_size`, `augment`, `image_size`,
            `root`, `download`, ...
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class ImageRun:
    """One image run: a student trained on data by a method, with or without a teacher.

    With the method `sft` and no teacher this trains a teacher.

    Attributes:
        student: the model to train.
        data: what it is trained, chosen and tested on.
        method: a name of `abkd.image.objectives.METHODS`.
        divergence: `{"name": ..., setting: value}` for the methods that take a divergence; None keeps the
            method's own. A value may be a schedule `{"from": 1.0, "to": 0.2, "shape": "cosine", "until":
            1.0}`.
        loss: settings of the method (`ce_weight`, `kd_weight`, `temperature`, ...); numbers may be schedules.
        teacher: the frozen model that gives targets; None only for methods that need none.
        teacher_cache: keep the teacher's logits in memory, found by the content of the image, so that an
            image seen again costs no teacher forward. Right under any augmentation; useful without one.
        training: keyword arguments of `DistillationConfig`, and so of transformers' `TrainingArguments`.
        seed: fixes the student's first weights, the order of the data and its augmentation.
    """

    student: ModelChoice
    data: DataChoice
    method: str = "abkd"
    divergence: Mapping[str, Any] | None = None
    loss: Mapping[str, Any] = field(default_factory=dict[str, Any])
    teacher: ModelChoice | None = None
    teacher_cache: bool = False
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The run as nested dicts, lists, strings, numbers and None."""
        return {
            "student": _model_dict(self.student),
            "data": {"name": self.data.name, "options": _plain(self.data.options)},
            "method": self.method,
            "divergence": None if self.divergence is None else _plain(self.divergence),
            "loss": _plain(self.loss),
            "teacher": None if self.teacher is None else _model_dict(self.teacher),
            "teacher_cache": self.teacher_cache,
            "training": _plain(self.training),
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ImageRun:
        """The run that `to_dict` wrote.

        Raises:
            InputError: an unknown key, or `student` or `data` missing.
        """
        known = tuple(cls.__dataclass_fields__)
        for key in value:
            if key not in known:
                raise InputError(f"image run: unknown key {key!r}; {nearest(key, known)}")
        for key in ("student", "data"):
            if key not in value:
                raise InputError(f"image run: {key!r} is missing")
        fields = dict(value)
        fields["student"] = ModelChoice(**value["student"])
        fields["data"] = DataChoice(**value["data"])
        if fields.get("teacher") is not None:
            fields["teacher"] = ModelChoice(**value["teacher"])
        return cls(**fields)


def _model_dict(choice: ModelChoice) -> dict[str, Any]:
    return {"name": choice.name, "options": _plain(choice.options)}


def _plain(value: Any) -> Any:
    """Tuples as lists, mappings as dicts, paths as strings."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
