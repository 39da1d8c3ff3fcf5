"""One image run from end to end: models, data, training, choice of the epoch, one look at the test set."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from abkd.image._settings import DataChoice, ImageRun, ModelChoice, RunResult

if TYPE_CHECKING:
    from abkd.image.data import ImageData

    from abkd.teachers import Teacher

__all__ = ["DataChoice", "ImageRun", "ModelChoice", "RunResult", "load_result", "run_image"]


def run_image(
    settings: ImageRun,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    data: ImageData | None = None,
    teacher: Teacher | None = None,
    description: str | None = None,
) -> RunResult:
    """Train and test one student, and leave everything about it in `folder`.

    Args:
        settings: the run.
        folder: the run folder. It may be absent or empty; a folder that holds a run is refused unless
            `resume` (go on from its newest complete checkpoint; a finished run is returned as it is) or
            `overwrite`.
        resume: continue a run that was started in `folder` with the same settings.
        overwrite: remove the run in `folder` first. Not together with `resume`.
        progress: show one progress bar.
        data: the data set of `settings.data`, already loaded, to share it between runs.
        teacher: the teacher of `settings.teacher`, already loaded (and perhaps cached), to share it.
        description: the label of the progress bar; the method and the seed if None.

    Returns:
        The metrics on the validation and the test split, of the best and the last epoch.

    Raises:
        RunExistsError: `folder` holds a run, and neither `resume` nor `overwrite` was given.
        InputError: settings that do not fit together.
        AbkdError: the run itself failed; the loss became NaN, say.
    """
    raise NotImplementedError


def load_result(folder: str | os.PathLike[str]) -> RunResult | None:
    """The result of the run in `folder` if it is finished, else None."""
    raise NotImplementedError
