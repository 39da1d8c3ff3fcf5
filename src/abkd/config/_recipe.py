"""A checked recipe, and the runs that it stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abkd.config._image import ImageRecipe, MethodSettings, Teacher
from abkd.config._methods import describe_method, full_divergence
from abkd.config._training import check_training

if TYPE_CHECKING:
    from abkd.image import DataChoice, ImageRun, ModelChoice
    from abkd.study import ImagePlan


@dataclass(frozen=True)
class Recipe:
    """A recipe without faults.

    Attributes:
        spec: The sections, as written and with defaults.
        source: Where it was read from, for messages.
    """

    spec: ImageRecipe
    source: str = "recipe"

    @property
    def output(self) -> str:
        """The folder to write to: as written, or `runs/` and the name of the recipe's file."""
        return self.spec.output or f"runs/{Path(self.source).stem}"

    @property
    def compared_methods(self) -> list[str]:
        """The methods of a comparison: `compare.methods`, or the recipe's own method alone."""
        return list(self.spec.compare.methods or [self.spec.method])

    @property
    def compared_seeds(self) -> list[int]:
        """The seeds of a comparison: `compare.seeds`, or the recipe's own."""
        return list(self.spec.compare.seeds or self.spec.seeds)

    def settings_of(self, method: str) -> MethodSettings:
        """What the recipe says about a method.

        The sections `divergence` and `loss` belong to the recipe's own method; `compare.settings.METHOD`
        replaces them for that method, and other methods have their published defaults.
        """
        if method in self.spec.compare.settings:
            return self.spec.compare.settings[method]
        if method == self.spec.method:
            return MethodSettings(divergence=self.spec.divergence, loss=self.spec.loss)
        return MethodSettings()

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

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, which `parse_recipe` reads."""
        return self.spec.model_dump(mode="json", exclude_unset=True)

    def to_yaml(self) -> str:
        """The recipe with all overrides, as YAML that `load_recipe` reads."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

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
