"""One language run from end to end: models, data, training, choice of the epoch, and what the student is worth."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer_utils import set_seed

from abkd.engine import Measured, MetricsLog, OpenRun, Report, RunFolder, RunResult, is_main, size_of
from abkd.engine import load_result as load_lm_result
from abkd.lm._adapters import lora
from abkd.lm._config import DistillationConfig
from abkd.lm._parts import LmParts, load_parts
from abkd.lm._settings import WEIGHTS, LmRun
from abkd.lm._trainer import DistillationTrainer
from abkd.lm.data import tokenise
from abkd.lm.evaluation import Decoding, evaluate, held_out, write_responses
from abkd.storage import atomic_write_json, staged_folder

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
    run = OpenRun.check(settings, folder, resume=resume, overwrite=overwrite)
    if (finished := run.finished()) is not None:
        return finished
    config = lm_config(settings, run.folder.checkpoints)
    if parts is None:
        if settings.data.answers is not None:
            run.begin()  # they are written into its folder
        parts = load_parts(settings, run.folder.path / "answers", progress=progress is True)
    set_seed(settings.seed)
    student = parts.student(settings)
    judge = _Judge(settings, parts, config)
    start = judge.start(student) if is_main() else {}
    trainer = _trainer(student, settings, config, parts, run.folder)
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
    is chosen by NLL, wherever there are validation rows.

    Raises:
        InputError: settings that do not fit together.
    """
    validated = settings.data.validation is not None
    training: dict[str, Any] = {
        "eval_strategy": "epoch" if validated else "no",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        **settings.training,
    }
    sharded = training.get("fsdp") or training.get("deepspeed")
    if validated and not sharded and str(training["eval_strategy"]) != "no":
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
        parts.teacher,
        config,
        train_dataset=parts.train,
        eval_dataset=parts.validation,
        processing_class=parts.tokenizer,
        callbacks=[MetricsLog(run.metrics)],
        peft_config=None if settings.student.lora is None else lora(**settings.student.lora),
        teacher_cache=parts.cache if wanted else None,
        pretrain_dataset=parts.pretrain,
    )


class _Judge:
    """Measures a student: on held-out rows, on test sets, and by a few answers to read."""

    def __init__(self, settings: LmRun, parts: LmParts, config: DistillationConfig) -> None:
        self.settings, self.parts = settings, parts
        self.rows = None
        if parts.test is not None:
            self.rows = tokenise(parts.test, parts.tokenizer, max_length=config.max_length)
        self.device = config.device
        self.batch = config.per_device_eval_batch_size

    def start(self, student: Any) -> dict[str, float]:
        """Before any training; measured once for all runs that share their parts, and so their first weights."""
        known = self.parts.start
        if "metrics" not in known:
            student.to(self.device)
            known["metrics"] = self.held_out(student)
            known["answers"] = self.answers(student)
        return dict(known["metrics"])

    def held_out(self, student: Any) -> dict[str, float]:
        """KL and NLL on the test rows; nothing without any."""
        if self.rows is None:
            return {}
        teacher = self.parts.teacher
        if teacher is not None:
            teacher.to(self.device)
        return held_out(student, self.rows, self.parts.tokenizer, teacher=teacher, batch_size=self.batch)

    def texts(self, student: Any, folder: Path) -> dict[str, float]:
        """ROUGE-L on the test sets; nothing without any."""
        wanted = self.settings.evaluation
        if not self.parts.sets:
            return {}
        result = evaluate(
            student,
            self.parts.tokenizer,
            self.parts.sets,
            seeds=wanted.seeds,
            decoding=self.settings.decoding(),
            batch_size=wanted.batch_size,
            folder=folder,
            progress=False,
        )
        found = {f"rouge_l_{name}": each.summary()["rouge_l"]["mean"] for name, each in result.sets.items()}
        average = result.average()
        return found if average is None else {"rouge_l": float(average["mean"] or 0.0), **found}

    def prompts(self) -> list[Any]:
        """The held-out prompts that are answered for reading."""
        rows = self.parts.test if self.parts.test is not None else self.parts.validation
        if rows is None or "prompt" not in rows.column_names:
            return []
        return list(rows["prompt"])[: self.settings.evaluation.samples]

    def answers(self, student: Any) -> list[str]:
        """The most probable answer, token by token, to each of these prompts."""
        prompts = self.prompts()
        if not prompts:
            return []
        decoding = Decoding(
            temperature=0.0, max_new_tokens=self.settings.evaluation.sample_tokens, no_repeat_ngram_size=0
        )
        found = write_responses(student, self.parts.tokenizer, prompts, decoding=decoding)
        return [response.text for response in found]

    def samples(self, student: Any) -> list[dict[str, Any]]:
        """Prompt, the data's response, and the student's answers before and after."""
        rows = self.parts.test if self.parts.test is not None else self.parts.validation
        prompts, after = self.prompts(), self.answers(student)
        before = self.parts.start.get("answers") or [""] * len(prompts)
        return [
            {"prompt": prompt, "response": response, "before": old, "after": new}
            for prompt, response, old, new in zip(
                prompts, [] if not prompts else rows["completion"], before, after, strict=False
            )
        ]


def _test(trainer: DistillationTrainer, judge: _Judge, run: RunFolder, start: dict[str, float]) -> Measured:
    """Save and measure the models of the last and of the best epoch."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    best = trainer.best
    differs = best is not None and bool(best.weights) and best.step != trainer.state.global_step
    tested: dict[str, dict[str, float]] = {}
    if differs and best is not None:
        tested["last"] = judge.held_out(model)
        _save(model, judge.parts.tokenizer, run.path / "last")
        model.load_state_dict(best.weights)
    tested["best"] = judge.held_out(model)
    _save(model, judge.parts.tokenizer, run.path / "best")
    if not differs:
        tested["last"] = dict(tested["best"])
        shutil.rmtree(run.path / "last", ignore_errors=True)
        shutil.copytree(run.path / "best", run.path / "last", copy_function=_link)
    tested["best"] |= judge.texts(model, run.path / "evaluation")
    samples = judge.samples(model)
    if samples:
        atomic_write_json(run.path / "samples.json", samples)
    if start:
        tested["start"] = start
    teacher_nll = tested["best"].get("teacher_nll")
    return Measured(tested, None if teacher_nll is None else {"nll": teacher_nll})


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
