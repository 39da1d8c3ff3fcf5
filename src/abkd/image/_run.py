"""One image run from end to end: models, data, training, choice of the epoch, one look at the test set."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import set_seed

from abkd.engine import (
    Measured,
    MetricsLog,
    OpenRun,
    Report,
    RunFolder,
    RunResult,
    in_own_precision,
    load_result,
    on_main,
    size_of,
)
from abkd.image._config import DistillationConfig
from abkd.image._evaluate import evaluate_models
from abkd.image._load import load_images, load_student, load_teacher
from abkd.image._settings import DataChoice, ImageRun, ModelChoice
from abkd.image._trainer import DistillationTrainer, collate_images
from abkd.image.models import ImageClassifier, save_model
from abkd.teachers import MemoryTeacher, Teacher

if TYPE_CHECKING:
    from abkd.image.data import ImageData

__all__ = ["DataChoice", "ImageRun", "ModelChoice", "RunResult", "load_result", "run_image"]


def run_image(
    settings: ImageRun,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | Report = True,
    data: ImageData | None = None,
    teacher: Teacher | None = None,
    description: str | None = None,
) -> RunResult:
    """Train and test one student, and leave everything about it in `folder`.

    The best epoch is chosen on the validation split; the test split is read once, at the end, for the model
    of the best and of the last epoch together. The checkpoints are removed when the run is finished.

    Args:
        settings: the run.
        folder: the run folder. It may be absent or empty; a folder that holds a run is refused unless
            `resume` (go on from its newest complete checkpoint; a finished run is returned as it is) or
            `overwrite`.
        resume: continue a run that was started in `folder` with the same settings, or start it.
        overwrite: remove the run in `folder` first. Not together with `resume`.
        progress: show one progress bar; or a function to be told the share done and a short text.
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
    with OpenRun.opened(settings, folder, resume=resume, overwrite=overwrite) as run:
        if (finished := run.finished()) is not None:
            return finished
        set_seed(settings.seed)
        data = load_images(settings.data) if data is None else data
        config = _config(settings, run.folder, has_validation=_has_samples(data.validation))
        config.objective()
        if teacher is None and settings.teacher is not None:
            teacher = load_teacher(settings.teacher, data)
        run.on_data(fingerprints_of(data, teacher))
        teacher = _prepared(teacher, settings, data, config)
        set_seed(settings.seed)  # the student's first weights do not depend on what was loaded before
        student = load_student(settings.student, data)
        trainer = _trainer(student, teacher, config, data, run.folder)
        return run.carry_out(
            trainer,
            lambda: on_main(lambda: _test(trainer, student, teacher, data, run.folder)),
            parameters={"student": size_of(student), "teacher": _teacher_size(teacher)},
            progress=progress,
            description=description,
        )


def fingerprints_of(data: ImageData, teacher: Teacher | None) -> dict[str, str]:
    """Of the teacher, and of each split that has one; a data set of the caller's own class has none."""
    from abkd.image.data import ImageDataset

    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    found = {name: split.fingerprint() for name, split in splits.items() if isinstance(split, ImageDataset)}
    return found if teacher is None else {**found, "teacher": teacher.fingerprint}


def _config(settings: ImageRun, run: RunFolder, *, has_validation: bool) -> DistillationConfig:
    fixed: dict[str, Any] = {
        "output_dir": str(run.checkpoints),
        "seed": settings.seed,
        "data_seed": settings.seed,
        "disable_tqdm": True,
        "method": settings.method,
        "divergence": None if settings.divergence is None else dict(settings.divergence),
        "method_settings": dict(settings.loss),
    }
    training = settings.training if has_validation else {"eval_strategy": "no", **settings.training}
    return DistillationConfig.from_settings(training, **fixed)


def _prepared(
    teacher: Teacher | None, settings: ImageRun, data: ImageData, config: DistillationConfig
) -> Teacher | None:
    """The teacher on its device, its memory filled in the order of the data, which a resumed run repeats."""
    if teacher is None or not settings.teacher_cache:
        return teacher
    if not isinstance(teacher, MemoryTeacher):
        teacher = MemoryTeacher(teacher)
    teacher.to(config.device)
    for name, value in (("set_seed", settings.seed), ("set_epoch", 0)):
        if hasattr(data.train, name):
            getattr(data.train, name)(value)
    loader: Any = DataLoader(data.train, batch_size=config.per_device_eval_batch_size, collate_fn=collate_images)
    return teacher.prime(batch["pixel_values"].to(config.device) for batch in loader)


def _trainer(
    student: ImageClassifier,
    teacher: Teacher | None,
    config: DistillationConfig,
    data: ImageData,
    run: RunFolder,
) -> DistillationTrainer:
    return DistillationTrainer(
        student,
        teacher,
        config,
        train_dataset=data.train,
        eval_dataset=data.validation if _has_samples(data.validation) else None,
        callbacks=[MetricsLog(run.metrics)],
    )


def _test(
    trainer: DistillationTrainer,
    student: ImageClassifier,
    teacher: Teacher | None,
    data: ImageData,
    run: RunFolder,
) -> Measured:
    """Save the models of the best and the last epoch, and measure both in one pass over the test split."""
    with in_own_precision(student):
        return _tested(trainer, student, teacher, data, run)


def _tested(
    trainer: DistillationTrainer,
    student: ImageClassifier,
    teacher: Teacher | None,
    data: ImageData,
    run: RunFolder,
) -> Measured:
    models: dict[str, nn.Module] = {"last": student}
    best = student
    if trainer.best is not None and trainer.best.weights:
        best = copy.deepcopy(student)
        best.load_state_dict(trainer.best.weights)
        models["best"] = best
    save_model(student, run.last)
    save_model(best, run.best)
    if not _has_samples(data.test):
        return Measured({})
    args = trainer.args
    tested = evaluate_models(
        models,
        data.test,
        teacher=teacher,
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        device=args.device,
    )
    return Measured({"best": tested.get("best", tested["last"]), "last": tested["last"]}, tested.get("teacher"))


def _has_samples(dataset: Any) -> bool:
    return dataset is not None and len(dataset) > 0


def _teacher_size(teacher: Any) -> int | None:
    while isinstance(teacher, MemoryTeacher):
        teacher = teacher.teacher
    module = getattr(teacher, "module", None)
    return size_of(module) if isinstance(module, nn.Module) else None
