"""Image studies: the teacher once, then every method with every seed, on the same data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from abkd.errors import InputError
from abkd.storage import atomic_write_json

from ._compare import compare, open_folder
from ._records import Column, Comparison, Failure, Planned, Record

if TYPE_CHECKING:
    from abkd.image import DataChoice, ImageRun, ModelChoice, RunResult
    from abkd.image.data import ImageData
    from abkd.teachers import Teacher

COLUMNS = (
    Column("test accuracy %", "accuracy", scale=100),
    Column("last epoch %", "accuracy", which="last", scale=100),
    Column("validation %", "accuracy", split="validation", scale=100),
    Column("NLL", "nll", digits=3),
    Column("ECE %", "ece", scale=100),
    Column("agreement %", "agreement", scale=100),
)
NOTE = (
    "Mean ± standard deviation over n seeds. The epoch is chosen on the validation split, and the test split "
    "is looked at once; 'last epoch' is the test accuracy without that choice. NLL in nats; ECE with 15 bins; "
    "agreement: share of test images on which student and teacher choose the same class."
)


@dataclass(frozen=True)
class ImagePlan:
    """What an image study runs.

    Attributes:
        runs: The settings of every run, by method and then by seed; all have the same data and student.
        teacher: The run that trains the teacher first, or None where the runs' own teacher exists already.
        cache_teacher: Keep the teacher's logits in memory, by the content of each image.
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
        progress: Show a progress bar a run.
        teacher_ready: Is told the result of the teacher's own training.
        report: Is told each run's outcome.

    Raises:
        RunExistsError: `folder` holds a comparison, and neither `resume` nor `overwrite` was given.
        InputError: Settings that do not fit together.
        AbkdError: The teacher's training failed. (A student's failure is kept in the comparison.)
    """
    from abkd.engine import environment
    from abkd.image import ModelChoice, run_image

    place = open_folder(folder, plan.methods, plan.seeds, resume=resume, overwrite=overwrite)
    atomic_write_json(place / "environment.json", environment())
    trained: ModelChoice | None = None
    if plan.teacher is not None:
        result = run_image(
            plan.teacher, place / "teacher", resume=True, progress=progress, description="teacher"
        )
        trained = ModelChoice(str(place / "teacher"))
        if teacher_ready is not None:
            teacher_ready(result)
    shared = _Shared()

    def run(planned: Planned, where: Path) -> Record:
        settings = plan.runs[planned.method][planned.seed]
        if trained is not None and settings.teacher is None and _needs_teacher(planned.method):
            settings = replace(settings, teacher=trained)
        result = run_image(
            settings,
            where,
            resume=True,
            progress=progress,
            data=shared.data(settings.data),
            description=f"{planned.method}, seed {planned.seed}",
        )
        return _record(planned, result)

    return compare(plan.methods, plan.seeds, run, place, columns=COLUMNS, note=NOTE, report=report)
