"""Image recipes: the runs that one stands for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from abkd.config._facts import image_facts
from abkd.config._image import ImageRecipe, Teacher
from abkd.config._methods import describe_method, full_divergence
from abkd.config._recipe import Recipe
from abkd.config._training import check_training

if TYPE_CHECKING:
    from abkd.engine import RunResult
    from abkd.image import DataChoice, ImageRun, ModelChoice
    from abkd.study import Comparison, Failure, ImagePlan, Planned, Record


@dataclass(frozen=True)
class ImageJob(Recipe):
    """A checked image recipe."""

    spec: ImageRecipe

    def describe(self, method: str) -> str:
        """The method's settings in words, with the named special case of its divergence."""
        settings = self.settings_of(method)
        return describe_method(method, settings)

    def plan(self, methods: Iterable[str], seeds: Iterable[int]) -> ImagePlan:
        """The runs of these methods with these seeds, after the teacher's own training if there is one."""
        from abkd.study import ImagePlan

        chosen = list(seeds)
        teacher = self.spec.teacher
        trained = teacher is not None and teacher.training is not None
        return ImagePlan(
            runs={method: {seed: self._run(method, seed) for seed in chosen} for method in methods},
            teacher=self._teacher_run(teacher) if teacher is not None and trained else None,
        )

    def study(
        self,
        methods: Sequence[str],
        seeds: Sequence[int],
        folder: str | os.PathLike[str],
        *,
        progress: bool = True,
        teacher_ready: Callable[[RunResult], None] | None = None,
        report: Callable[[Planned, Record | Failure], None] | None = None,
    ) -> Comparison:
        """Make the runs of the plan in a folder that `open_folder` opened; finished ones are kept."""
        from abkd.study import run_images

        return run_images(
            self.plan(methods, seeds),
            folder,
            resume=True,
            progress=progress,
            teacher_ready=teacher_ready,
            report=report,
        )

    def dry_run(self, methods: Sequence[str], folder: str | os.PathLike[str], report: Callable[[str], None]) -> None:
        """Two steps of every method on made-up images of the right size."""
        from abkd.study import dry_run_images

        plan = self.plan(methods, self.spec.seeds[:1])
        dry_run_images(plan, folder, facts=image_facts(self.spec.data), report=report)

    def headline(self, metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
        """The accuracy on the test split."""
        return f"{100 * metrics['test']['best']['accuracy']:.2f} %"

    def _run(self, method: str, seed: int) -> ImageRun:
        from abkd.image import ImageRun, ModelChoice

        settings = self.settings_of(method)
        written = settings.divergence
        return ImageRun(
            student=ModelChoice(self.spec.student.model, self._student_options()),
            data=self._data(self.spec.data.train_size),
            method=method,
            divergence=None if written is None else full_divergence(method, written),
            loss=settings.loss,
            teacher=_existing(self.spec.teacher),
            teacher_cache=self.spec.teacher is not None and self.spec.teacher.cache == "memory",
            training=check_training(self.spec.training, "training")[0],
            seed=seed,
        )

    def _teacher_run(self, teacher: Teacher) -> ImageRun:
        from abkd.image import ImageRun, ModelChoice

        return ImageRun(
            student=ModelChoice(teacher.model or "", teacher.options),
            data=self._data(None),
            method="sft",
            training=check_training(teacher.training or {}, "teacher.training")[0],
            seed=teacher.seed,
        )

    def _student_options(self) -> dict[str, Any]:
        student = self.spec.student
        return {**({"pretrained": True} if student.pretrained else {}), **student.options}

    def _data(self, train_size: float | None) -> DataChoice:
        from abkd.image import DataChoice

        section = self.spec.data
        options = section.model_dump(exclude={"name", "options", "train_size"}, exclude_unset=True)
        if train_size is not None:
            options["train_size"] = train_size
        return DataChoice(section.name, {**options, **section.options})


def _existing(teacher: Teacher | None) -> ModelChoice | None:
    """The teacher that is there before the study starts; None where there is none, or where it is trained."""
    from abkd.image import ModelChoice

    if teacher is None or teacher.training is not None:
        return None
    if teacher.path is not None:
        return ModelChoice(teacher.path)
    extra: dict[str, Any] = {"pretrained": True} if teacher.pretrained else {}
    if teacher.weights is not None:
        extra["weights"] = teacher.weights
    return ModelChoice(teacher.model or "", {**extra, **teacher.options})
