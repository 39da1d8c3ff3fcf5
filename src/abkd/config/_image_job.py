"""Image recipes: the runs that one stands for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from abkd.config._facts import image_facts
from abkd.config._image import ImageRecipe, Student, Teacher
from abkd.config._methods import describe_method, full_divergence, own_divergence
from abkd.config._recipe import Recipe
from abkd.config._training import check_training

if TYPE_CHECKING:
    from abkd.image import DataChoice, ImageRun, ModelChoice
    from abkd.study import ImagePlan


@dataclass(frozen=True)
class ImageJob(Recipe):
    """A checked image recipe."""

    spec: ImageRecipe

    def describe(self, method: str) -> str:
        """The method's settings in words, with the named special case of its divergence."""
        return describe_method(method, self.settings_of(method))

    def dry_run(self, methods: Sequence[str], folder: str | os.PathLike[str], report: Callable[[str], None]) -> None:
        """Two steps of every method on made-up images of the right size."""
        from abkd.study._dry_run import dry_run_images

        facts = image_facts(self.spec.data)
        dry_run_images(self.plan(methods, self.spec.seeds[:1]), folder, facts=facts, report=report)

    def headline(self, metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
        """The accuracy on the test split."""
        return f"{100 * metrics['test']['best']['accuracy']:.2f} %"

    def run(self, method: str, seed: int) -> ImageRun:
        """One student's run."""
        from abkd.image import ImageRun, ModelChoice

        settings = self.settings_of(method)
        written = settings.divergence
        return ImageRun(
            student=ModelChoice(self.spec.student.model, _options(self.spec.student)),
            data=self._data(self.spec.data.train_size),
            method=method,
            divergence=None if written is None else full_divergence(written, own_divergence(method) or {}),
            loss=settings.loss,
            teacher=_existing(self.spec.teacher),
            teacher_cache=self.spec.teacher is not None and self.spec.teacher.cache == "memory",
            training=check_training(self.spec.training, "training")[0],
            seed=seed,
        )

    def teacher_run(self, teacher: Teacher) -> ImageRun:
        """The run that trains the teacher."""
        from abkd.image import ImageRun, ModelChoice

        return ImageRun(
            student=ModelChoice(teacher.model or "", _options(teacher)),
            data=self._data(None),
            method="sft",
            training=check_training(teacher.training or {}, "teacher.training")[0],
            seed=teacher.seed,
        )

    def _plan_class(self) -> type[ImagePlan]:
        from abkd.study import ImagePlan

        return ImagePlan

    def _data(self, train_size: float | None) -> DataChoice:
        from abkd.image import DataChoice

        section = self.spec.data
        options = section.model_dump(exclude={"name", "options", "train_size"}, exclude_unset=True)
        if train_size is not None:
            options["train_size"] = train_size
        return DataChoice(section.name, {**options, **section.options})


def _options(model: Student | Teacher) -> dict[str, Any]:
    return {**({"pretrained": True} if model.pretrained else {}), **model.options}


def _existing(teacher: Teacher | None) -> ModelChoice | None:
    """The teacher that is there before the study starts; None where there is none, or where it is trained."""
    from abkd.image import ModelChoice
    from abkd.image._load import folder_name

    if teacher is None or teacher.training is not None:
        return None
    if teacher.path is not None:
        return ModelChoice(folder_name(teacher.path))
    weights = {} if teacher.weights is None else {"weights": teacher.weights}
    return ModelChoice(teacher.model or "", {**weights, **_options(teacher)})
