"""One language run from end to end: models, data, training, choice of the epoch, and what the student is worth."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer_utils import set_seed

from abkd.engine import (
    WAITED,
    Measured,
    MetricsLog,
    OpenRun,
    Report,
    RunFolder,
    RunResult,
    in_own_precision,
    is_main,
    on_main,
    size_of,
)
from abkd.engine import load_result as load_lm_result
from abkd.errors import InputError
from abkd.lm._adapters import lora
from abkd.lm._config import DistillationConfig
from abkd.lm._judge import Judge
from abkd.lm._parts import LmParts, load_parts
from abkd.lm._settings import WEIGHTS, LmRun
from abkd.lm._setup import checked_config
from abkd.lm._trainer import DistillationTrainer
from abkd.storage import atomic_write_json, staged_folder

_IN_ONE_PROCESS = (
    "a run saves and measures its student in the first process alone, which a model that is spread over several does "
    "not allow; use DistillationTrainer in a script of your own"
)

__all__ = ["lm_config", "load_lm_result", "run_lm"]


def run_lm(
    settings: LmRun,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | Report = True,
    parts: LmParts | None = None,
    description: str | None = None,
) -> RunResult:
    """Train and measure one student, and leave everything about it in `folder`.

    The best epoch is the one with the least NLL on the validation rows (`training.select_by` names another metric);
    without validation rows it is the last. Held-out KL and NLL on the test rows are measured before training and
    for the models of the best and of the last epoch; texts for the test sets are written by the best. Both models
    are saved as model folders with their tokenizer, adapters merged. The checkpoints are removed at the end.
    A teacher with another vocabulary is compared with nothing: NLL is measured alone.

    Launched as several processes (accelerate, torchrun), all of them call this and get the result. They share the
    training and the texts; the rest the first one measures, and the others wait for it, for up to a day.

    Args:
        settings: the run.
        folder: the run folder. It may be absent or empty; a folder that holds a run is refused unless
            `resume` (go on from its newest complete checkpoint; a finished run is returned as it is) or
            `overwrite`.
        resume: continue a run that was started in `folder` with the same settings, or start it.
        overwrite: remove the run in `folder` first. Not together with `resume`.
        progress: show one progress bar; or a function to be told the share done and a short text.
        parts: what the settings name, already loaded, to share it between runs.
        description: the label of the progress bar; the method and the seed if None.

    Raises:
        RunExistsError: `folder` holds a run, and neither `resume` nor `overwrite` was given.
        InputError: settings that do not fit together.
        AbkdError: the run itself failed; the loss became NaN, say.
    """
    with OpenRun.opened(settings, folder, resume=resume, overwrite=overwrite) as run:
        if (finished := run.finished()) is not None:
            return finished
        config = checked_config(lm_config(settings, run.folder.checkpoints))
        if parts is None:
            if settings.data.answers is not None:
                run.begin()  # they are written into its folder
            parts = load_parts(settings, run.folder.answers, progress=progress is True and is_main())
        run.on_data(parts.fingerprints())
        if config.teacher_sampling() is not None:
            run.begin()  # likewise, unless its study keeps it
            config.teacher_text_folder = None if parts.texts is None else str(parts.texts / settings.method)
        set_seed(settings.seed)
        student = parts.student(settings)
        judge = Judge(settings, parts, config)
        start = judge.start(student)
        trainer = _trainer(student, settings, config, parts, run.folder)
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # by the launcher
            raise InputError(f"the launcher: FSDP or DeepSpeed: {_IN_ONE_PROCESS}")
        return run.carry_out(
            trainer,
            lambda: _test(trainer, judge, run.folder, start),
            parameters={"student": size_of(trainer.model), "teacher": _teacher_size(settings, parts)},
            progress=progress,
            description=description,
        )


def lm_config(settings: LmRun, output: str | os.PathLike[str]) -> DistillationConfig:
    """The trainer's configuration.

    Where the settings do not say otherwise: an evaluation and a checkpoint an epoch (two are kept), and the epoch
    is chosen by NLL, wherever there are validation rows. Processes wait a day for each other.

    Raises:
        InputError: settings that do not fit together.
    """
    validated = settings.data.validation is not None
    training: dict[str, Any] = {
        "eval_strategy": "epoch" if validated else "no",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "ddp_timeout": WAITED,
        **settings.training,
    }
    for key in ("fsdp", "deepspeed"):
        if training.get(key):
            raise InputError(f"training.{key}: {_IN_ONE_PROCESS}")
    if validated and str(training["eval_strategy"]) != "no":
        training.setdefault("select_by", "nll")
    fixed: dict[str, Any] = {
        "output_dir": str(output),
        "seed": settings.seed,
        "data_seed": settings.seed,
        "disable_tqdm": True,
        "method": settings.method,
        "divergence": None if settings.divergence is None else dict(settings.divergence),
        "student_text": None if settings.student_text is None else dict(settings.student_text),
        "teacher_text": None if settings.teacher_text is None else dict(settings.teacher_text),
        **{key: value for key, value in settings.loss.items() if key in WEIGHTS},
    }
    own = {key: value for key, value in settings.loss.items() if key not in WEIGHTS}
    return DistillationConfig.from_settings(training, **fixed, method_settings=own or None)


def _trainer(
    student: Any, settings: LmRun, config: DistillationConfig, parts: LmParts, run: RunFolder
) -> DistillationTrainer:
    wanted = config.objective().needs_teacher or config.teacher_sampling() is not None
    return DistillationTrainer(
        student,
        parts.teacher if wanted or parts.compares else None,
        config,
        train_dataset=parts.train,
        eval_dataset=parts.validation,
        processing_class=parts.tokenizer,
        callbacks=[MetricsLog(run.metrics)],
        peft_config=None if settings.student.lora is None else lora(**settings.student.lora),
        teacher_cache=parts.cache if wanted else None,
        pretrain_dataset=parts.pretrain,
    )


def _test(trainer: DistillationTrainer, judge: Judge, run: RunFolder, start: dict[str, float]) -> Measured:
    """Save and measure the models of the last and of the best epoch; called in every process."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    with in_own_precision(model):
        return _tested(trainer, model, judge, run, start)


def _tested(
    trainer: DistillationTrainer, model: Any, judge: Judge, run: RunFolder, start: dict[str, float]
) -> Measured:
    best = trainer.best
    differs = best is not None and bool(best.weights) and best.step != trainer.state.global_step
    tested: dict[str, dict[str, float]] = {}
    if differs and best is not None:
        tested["last"] = on_main(lambda: _kept(trainer, model, judge, run.last))
        model.load_state_dict(best.weights)
    tested["best"] = on_main(lambda: _kept(trainer, model, judge, run.best))
    if not differs:
        tested["last"] = dict(tested["best"])
        on_main(lambda: _same(run.best, run.last))
    tested["best"] |= judge.texts(model, run.evaluation)
    on_main(lambda: _write_samples(judge.samples(model), run.samples))
    if start:
        tested["start"] = start
    teacher_nll = tested["best"].get("teacher_nll")
    return Measured(tested, None if teacher_nll is None else {"nll": teacher_nll})


def _kept(trainer: DistillationTrainer, model: Any, judge: Judge, folder: Path) -> dict[str, float]:
    """What a model measures, once it is saved with the tokenizer that it was trained with."""
    _save(model, trainer.processing_class, folder)
    return judge.held_out(model)


def _same(folder: Path, other: Path) -> None:
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(folder, other, copy_function=_link)


def _write_samples(samples: list[dict[str, Any]], file: Path) -> None:
    if samples:
        atomic_write_json(file, samples)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """A model folder, with an adapter merged into its model."""
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    with staged_folder(folder) as place:
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)


def _link(source: str, target: str) -> None:
    """The same file under another name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _teacher_size(settings: LmRun, parts: LmParts) -> int | None:
    cached = settings.teacher is not None and settings.teacher.cache is not None
    return None if parts.teacher is None or cached else size_of(parts.teacher)
