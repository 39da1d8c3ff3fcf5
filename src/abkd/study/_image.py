"""Image studies: what their table shows, and what their runs share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from abkd.study._plan import Newest, StudyPlan, Work
from abkd.study._records import Column, Comparison
from abkd.study._study import StudyOptions, run_study

if TYPE_CHECKING:
    from abkd.image import ImageRun, ModelChoice
    from abkd.image.data import ImageData
    from abkd.teachers import Teacher

_COLUMNS = (
    Column("test acc. %", "accuracy", scale=100),
    Column("last epoch %", "accuracy", which="last", scale=100),
    Column("NLL", "nll", digits=3),
    Column("ECE %", "ece", scale=100, digits=1),
    Column("agreem. %", "agreement", scale=100, digits=1),
)
_NOTE = (
    "Mean ± standard deviation over n seeds; test acc.: top-1 on the test split, which is looked at once, of {epoch}. "
    "NLL in nats; ECE with 15 bins; agreement: share of test images on which student and teacher choose the same class."
)
_CHOSEN = "the epoch chosen on the validation split; last epoch: the same without that choice"


@dataclass(frozen=True)
class ImagePlan(StudyPlan["ImageRun"]):
    """What an image study runs; see `StudyPlan`."""

    def trained(self, folder: Path) -> ModelChoice:
        """The teacher of the runs, trained in this run folder."""
        from abkd.image import ModelChoice

        return ModelChoice(str(folder))

    def columns(self) -> tuple[Column, ...]:
        """What the table shows."""
        return _COLUMNS if self._chooses() else tuple(column for column in _COLUMNS if column.which != "last")

    def note(self) -> str:
        """How to read the table."""
        return _NOTE.format(epoch=_CHOSEN if self._chooses() else "the last epoch")

    def _chooses(self) -> bool:
        """Whether there is a validation split by which the epoch is chosen."""
        run = self.example
        return run.data.options.get("validation") != 0 and run.training.get("eval_strategy") != "no"

    def work(self, place: Path, progress: bool) -> Work:
        """`run_image`, with data and teacher loaded once for all runs that have the same."""
        from abkd.image import load_teacher, run_image
        from abkd.image._load import load_images
        from abkd.image._run import fingerprints_of

        data: Newest[ImageData] = Newest()
        teacher: Newest[Teacher] = Newest()

        def share(run: ImageRun) -> dict[str, Any]:
            loaded = data.of(run.data, lambda: load_images(run.data))
            if (chosen := run.teacher) is None:
                return {"data": loaded}
            augmented = getattr(loaded.train, "augment", "none") != "none"
            seed = run.seed if run.teacher_cache and augmented else None  # of the images that the memory holds
            taught = teacher.of(
                (chosen, run.teacher_cache, seed), lambda: load_teacher(chosen, loaded, cache=run.teacher_cache)
            )
            return {"data": loaded, "teacher": taught}

        def fingerprints(shared: Mapping[str, Any]) -> dict[str, str]:
            return fingerprints_of(shared["data"], shared.get("teacher")) if "data" in shared else {}

        return Work(run_image, share, fingerprints)


def run_images(
    plan: ImagePlan,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    **options: Unpack[StudyOptions],
) -> Comparison:
    """`run_study` of an image plan."""
    return run_study(plan, folder, resume=resume, overwrite=overwrite, **options)
