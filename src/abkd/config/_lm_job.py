"""Language recipes: the runs that one stands for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abkd.config._faults import fault_of
from abkd.config._image import MethodSettings
from abkd.config._lm import LmMethodSettings, LmRecipe, LmTeacher
from abkd.config._methods import full_divergence
from abkd.config._recipe import Recipe
from abkd.config._training import check_training

if TYPE_CHECKING:
    from abkd.lm import LmData, LmRun
    from abkd.study import LmPlan

_SHOWN = (("forward_kl", "KL"), ("nll", "NLL"), ("rouge_l", "ROUGE-L"))


@dataclass(frozen=True)
class LmJob(Recipe):
    """A checked language recipe."""

    spec: LmRecipe

    def own_settings(self) -> MethodSettings:
        """What the recipe's own sections say."""
        spec = self.spec
        return LmMethodSettings(
            divergence=spec.divergence, loss=spec.loss, student_text=spec.student_text, teacher_text=spec.teacher_text
        )

    def no_settings(self) -> MethodSettings:
        """A method's defaults."""
        return LmMethodSettings()

    def describe(self, method: str) -> str:
        """The method's settings in words, with the named special case of its divergence."""
        from abkd.lm import lm_config

        config = lm_config(self.run(method, self.spec.seeds[0]), "unused")
        text = config.text()
        if self.spec.data.answers is not None:
            text = text.replace("the data set's text", "the teacher's answers")
        return f"{config.objective().describe()}, on {text}"

    def dry_run(self, methods: Sequence[str], folder: str | os.PathLike[str], report: Callable[[str], None]) -> None:
        """Two steps of every method on tiny random models."""
        from abkd.study import dry_run_lms

        dry_run_lms(self.plan(methods, self.spec.seeds[:1]), folder, report=report)

    def file_faults(self) -> Iterator[str]:
        """One line for each file or folder of instructions that cannot be used, or for rows that do not suffice."""
        from abkd.lm._parts import check_on_disk

        unreadable = list(self._unreadable())
        yield from unreadable
        fault = None if unreadable else fault_of(partial(check_on_disk, self.run(self.spec.method, self.spec.seeds[0])))
        if fault is not None:
            yield fault

    def _unreadable(self) -> Iterator[str]:
        from abkd.lm.data import instruction_names, load_instructions

        data = self.spec.data
        named = [("data.train", data.train, "train")]
        if isinstance(data.validation, str):
            named.append(("data.validation", data.validation, "validation"))
        named += [(f"evaluation.sets.{place}", name, "test") for place, name in enumerate(self.spec.evaluation.sets)]
        for path, name, split in named:
            if Path(name).exists() and name not in instruction_names():
                fault = fault_of(partial(load_instructions, name, split, drop_empty=data.drop_empty))
                if fault is not None:
                    yield f"{path}: {fault}"

    def headline(self, metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
        """Held-out KL and NLL in nats, and ROUGE-L, where they were measured."""
        found = {**metrics.get("validation", {}).get("best", {}), **metrics.get("test", {}).get("best", {})}
        return ", ".join(f"{title} {found[key]:.3f}" for key, title in _SHOWN if key in found)

    def run(self, method: str, seed: int) -> LmRun:
        """One student's run."""
        from abkd.lm import METHODS, LmEvaluation, LmRun, LmStudent, LmTeacher

        spec, settings = self.spec, self.settings_of(method)
        written = settings.divergence
        text = settings if isinstance(settings, LmMethodSettings) else LmMethodSettings()
        student = spec.student.model_dump(exclude={"lora", "layers"})
        layers = spec.student.layers
        teacher = spec.teacher
        existing = None
        if teacher is not None and teacher.training is None:
            existing = LmTeacher(teacher.model, teacher.adapter, teacher.dtype, teacher.cache)
        elif teacher is not None:
            existing = LmTeacher(teacher.model, None, teacher.dtype)
        evaluation = spec.evaluation.model_dump(exclude={"sets", "seeds"})
        return LmRun(
            student=LmStudent(
                **student,
                layers=tuple(layers) if isinstance(layers, list) else layers,
                lora=None if spec.student.lora is None else spec.student.lora.model_dump(),
            ),
            data=self._data(),
            method=method,
            divergence=None if written is None else full_divergence(written, METHODS[method].divergence or {}),
            loss=settings.loss,
            student_text=text.student_text,
            teacher_text=text.teacher_text,
            teacher=existing,
            evaluation=LmEvaluation(sets=tuple(spec.evaluation.sets), seeds=tuple(spec.evaluation.seeds), **evaluation),
            training=check_training({**spec.training, **text.training}, "training", "lm")[0],
            seed=seed,
        )

    def teacher_run(self, teacher: LmTeacher) -> LmRun:
        """The run that trains the teacher."""
        from abkd.lm import LmEvaluation, LmRun, LmStudent

        dtype = "float32" if teacher.dtype == "auto" else teacher.dtype
        return LmRun(
            student=LmStudent(
                model=teacher.model,
                dtype=dtype,
                lora=None if teacher.lora is None else teacher.lora.model_dump(),
            ),
            data=self._data(),
            method="sft",
            evaluation=LmEvaluation(samples=0),
            training=check_training(teacher.training or {}, "teacher.training", "lm")[0],
            seed=teacher.seed,
        )

    def _plan_class(self) -> type[LmPlan]:
        from abkd.study import LmPlan

        return LmPlan

    def _data(self) -> LmData:
        from abkd.lm import LmData

        return LmData(**self.spec.data.model_dump())

    def _task(self) -> dict[str, Any]:
        return {"task": "lm"}
