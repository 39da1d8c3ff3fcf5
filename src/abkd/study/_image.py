"""Image studies: the teacher once, then every method with every seed, on the same data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from abkd.storage import atomic_write_json
from abkd.study._bar import PlanBar
from abkd.study._compare import compare
from abkd.study._folder import TEACHER, opened
from abkd.study._records import Column, Comparison, Failure, Planned, Record

if TYPE_CHECKING:
    from abkd.image import DataChoice, ImageRun, ModelChoice, RunResult
    from abkd.image.data import ImageData
    from abkd.teachers import Teacher

COLUMNS = (
    Column("test acc. %", "accuracy", scale=100),
    Column("last epoch %", "accuracy", which="last", scale=100),
    Column("NLL", "nll", digits=3),
    Column("ECE %", "ece", scale=100, digits=1),
    Column("agreem. %", "agreement", scale=100, digits=1),
)
NOTE = (
    "Mean ± standard deviation over n seeds; test acc.: top-1 on the test split, which is looked at once, of "
    "the epoch chosen on the validation split; last epoch: the same without that choice. NLL in nats; ECE with "
    "15 bins; agreement: share of test images on which student and teacher choose the same class."
)


@dataclass(frozen=True)
class ImagePlan:
    """What an image study runs.

    Attributes:
        runs: The settings of every run, by method and then by seed; all have the same data and student.
        teacher: The run that trains the teacher first, or None where the runs' own teacher exists already.
    """

    runs: Mapping[str, Mapping[int, ImageRun]]
    teacher: ImageRun | None = None

    @property
    def methods(self) -> list[str]:
        """The methods, in the order of the table."""
        return list(self.runs)

    @property
    def seeds(self) -> list[int]:
        """The seeds, the same for every method."""
        return list(next(iter(self.runs.values())))

    def settled(self, place: Path) -> Mapping[str, Mapping[int, ImageRun]]:
        """The runs of a study in `place`, with the teacher that the study itself trains."""
        from abkd.image import ModelChoice

        if self.teacher is None:
            return self.runs
        trained = ModelChoice(str(place / TEACHER))
        return {
            method: {seed: replace(run, teacher=trained) for seed, run in seeds.items()}
            for method, seeds in self.runs.items()
        }


def run_images(
    plan: ImagePlan,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    teacher_ready: Callable[[RunResult], None] | None = None,
    report: Callable[[Planned, Record | Failure], None] | None = None,
) -> Comparison:
    """Train the teacher if the plan says so, then every method with every seed, and write all reports.

    The folder gets `teacher/` (a run), `runs/METHOD/seed-SEED/` (runs), `environment.json` and the reports of
    `write_reports`. Interrupted, it goes on with `resume=True`: finished runs are kept, an unfinished one
    starts from its newest whole checkpoint.

    Args:
        plan: What to run.
        folder: Where to.
        resume: Keep what is finished in `folder`.
        overwrite: Remove what `folder` holds first.
        progress: Show one progress bar for all runs.
        teacher_ready: Is told the result of the teacher's own training.
        report: Is told each run's outcome.

    Raises:
        RunExistsError: `folder` holds a comparison, and neither `resume` nor `overwrite` was given.
        InputError: Settings that do not fit together.
        AbkdError: The teacher's training failed. (A student's failure is kept in the comparison.)
    """
    from abkd.engine import environment
    from abkd.image import load_result, run_image

    with (
        opened(folder, plan, resume=resume, overwrite=overwrite) as place,
        _bar(plan, place.name) if progress else nullcontext() as bar,
    ):
        atomic_write_json(place / "environment.json", environment())
        shared, settled = _Shared(), plan.settled(place)
        if plan.teacher is not None:
            result = run_image(
                plan.teacher, place / TEACHER, resume=True, progress=bar.next("teacher") if bar else False
            )
            if teacher_ready is not None:
                teacher_ready(result)

        def run(planned: Planned, where: Path) -> Record:
            settings = settled[planned.method][planned.seed]
            finished = load_result(where) is not None
            result = run_image(
                settings,
                where,
                resume=True,
                progress=bar.next(f"{planned.method}, seed {planned.seed}") if bar else False,
                data=None if finished else shared.data(settings),
                teacher=None if finished else shared.teacher(settings),
            )
            return _record(planned, result)

        return compare(plan.methods, plan.seeds, run, place, columns=COLUMNS, note=NOTE, report=report)


def _bar(plan: ImagePlan, title: str) -> PlanBar:
    return PlanBar(title, len(plan.methods) * len(plan.seeds) + (plan.teacher is not None))


class _Shared:
    """Data and teacher, loaded once for all runs that have the same."""

    def __init__(self) -> None:
        self._data: tuple[DataChoice, ImageData] | None = None
        self._teacher: tuple[ModelChoice, Teacher] | None = None

    def data(self, settings: ImageRun) -> ImageData:
        """The data of a run."""
        from abkd.image.data import load_data

        if self._data is None or self._data[0] != settings.data:
            self._data = settings.data, load_data(settings.data.name, **settings.data.options)
        return self._data[1]

    def teacher(self, settings: ImageRun) -> Teacher | None:
        """The teacher of a run, frozen; None without one."""
        from abkd.image import load_teacher
        from abkd.teachers import MemoryTeacher

        if settings.teacher is None:
            return None
        if self._teacher is None or self._teacher[0] != settings.teacher:
            teacher = load_teacher(settings.teacher, self.data(settings))
            if settings.teacher_cache:
                teacher = MemoryTeacher(teacher)
            self._teacher = settings.teacher, teacher
        return self._teacher[1]


def _record(planned: Planned, result: RunResult) -> Record:
    return Record(
        method=planned.method,
        seed=planned.seed,
        metrics=result.metrics,
        best_epoch=result.best_epoch,
        history=result.history,
        seconds=result.seconds,
        parameters=result.parameters,
        teacher=result.teacher,
    )
