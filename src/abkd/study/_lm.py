"""Language studies: the teacher once, then every method with every seed, on the same rows and first weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abkd.storage import atomic_write_json
from abkd.study._bar import PlanBar
from abkd.study._compare import compare
from abkd.study._folder import TEACHER, opened
from abkd.study._records import Column, Comparison, Failure, Planned, Record

if TYPE_CHECKING:
    from abkd.engine import RunResult
    from abkd.lm import LmParts, LmRun

ANSWERS = "answers"
_HELD_OUT = (
    Column("KL", "forward_kl", digits=3, higher_is_better=False),
    Column("KL at start", "forward_kl", which="start", digits=3, higher_is_better=False),
    Column("NLL", "nll", digits=3, higher_is_better=False),
    Column("NLL at start", "nll", which="start", digits=3, higher_is_better=False),
    Column("agreem. %", "agreement", scale=100, digits=1),
)
_NOTE = (
    "Mean ± standard deviation over n seeds, of the epoch chosen by the validation rows. KL: forward KL from the "
    "teacher to the student, and NLL of the responses, both in nats a token on {split} rows; at start: before any "
    "training; agreem.: share of these tokens on which both models prefer the same."
)
_TEXTS = " ROUGE-L: of sampled responses to the test sets, 0 to 100."


@dataclass(frozen=True)
class LmPlan:
    """What a language study runs.

    Attributes:
        runs: The settings of every run, by method and then by seed; all have the same data, student and teacher.
        teacher: The run that fine-tunes the teacher first, or None where the runs' own teacher exists already.
    """

    runs: Mapping[str, Mapping[int, LmRun]]
    teacher: LmRun | None = None

    @property
    def methods(self) -> list[str]:
        """The methods, in the order of the table."""
        return list(self.runs)

    @property
    def seeds(self) -> list[int]:
        """The seeds, the same for every method."""
        return list(next(iter(self.runs.values())))

    def settled(self, place: Path) -> Mapping[str, Mapping[int, LmRun]]:
        """The runs of a study in `place`, with the teacher that the study itself trains."""
        from abkd.lm import LmTeacher

        if self.teacher is None:
            return self.runs
        trained = LmTeacher(str(place / TEACHER / "best"))
        return {
            method: {seed: replace(run, teacher=trained) for seed, run in seeds.items()}
            for method, seeds in self.runs.items()
        }

    @property
    def example(self) -> LmRun:
        """One of the runs."""
        return self.runs[self.methods[0]][self.seeds[0]]

    def columns(self) -> tuple[Column, ...]:
        """What the table shows: held-out measures, on validation rows where none are held out for testing."""
        run = self.example
        compared = self.teacher is not None or (run.teacher is not None and run.teacher.cache is None)
        texts: list[Column] = []
        if run.evaluation.sets:
            texts.append(Column("ROUGE-L", "rouge_l"))
        if run.data.test is None:
            chosen = [replace(column, split="validation") for column in _HELD_OUT if column.which != "start"]
            chosen = chosen if run.data.validation is not None else []
        else:
            chosen = list(_HELD_OUT)
        if not compared:
            chosen = [column for column in chosen if column.key == "nll"]
        return (*chosen, *texts)

    def note(self) -> str:
        """How to read the table."""
        run = self.example
        split = "validation" if run.data.test is None else "held-out test"
        return _NOTE.format(split=split) + (_TEXTS if run.evaluation.sets else "")


def run_lms(
    plan: LmPlan,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    teacher_ready: Callable[[RunResult], None] | None = None,
    report: Callable[[Planned, Record | Failure], None] | None = None,
    parts: LmParts | None = None,
) -> Comparison:
    """Fine-tune the teacher if the plan says so, then train every method with every seed, and write all reports.

    The folder gets `teacher/` (a run), `answers/` (the teacher's responses, where the data ask for them),
    `runs/METHOD/seed-SEED/` (runs), `environment.json` and the reports of `write_reports`. Interrupted, it goes on
    with `resume=True`. Models and rows are loaded once for all runs.

    Args:
        plan: What to run.
        folder: Where to.
        resume: Keep what is finished in `folder`.
        overwrite: Remove what `folder` holds first.
        progress: Show one progress bar for all runs.
        teacher_ready: Is told the result of the teacher's own training.
        report: Is told each run's outcome.
        parts: Models and rows that are loaded already; they have to be what the plan's runs name.

    Raises:
        RunExistsError: `folder` holds a comparison, and neither `resume` nor `overwrite` was given.
        InputError: Settings that do not fit together, or a plan whose table would be empty.
        AbkdError: The teacher's training failed. (A student's failure is kept in the comparison.)
    """
    from abkd.errors import InputError

    if not plan.columns():
        raise InputError("nothing would be measured: give data.validation, data.test or evaluation.sets")
    with opened(folder, plan, resume=resume, overwrite=overwrite) as place:
        return _study(plan, place, progress, teacher_ready, report, parts)


def _study(
    plan: LmPlan,
    place: Path,
    progress: bool,
    teacher_ready: Callable[[RunResult], None] | None,
    report: Callable[[Planned, Record | Failure], None] | None,
    parts: LmParts | None,
) -> Comparison:
    """`run_lms` in a folder that is open."""
    from abkd.engine import environment
    from abkd.lm import load_lm_result, run_lm

    atomic_write_json(place / "environment.json", environment())
    quiet_libraries()
    shared = _Shared(place / ANSWERS, progress, parts)
    total = len(plan.methods) * len(plan.seeds)
    if plan.teacher is not None:
        result = run_lm(plan.teacher, place / TEACHER, resume=True, progress=progress, description="teacher")
        if teacher_ready is not None:
            teacher_ready(result)
    settled = plan.settled(place)
    if any(load_lm_result(place / Planned(m, s).folder) is None for m in plan.methods for s in plan.seeds):
        shared.parts(settled[plan.methods[0]][plan.seeds[0]])  # before the bar: the teacher may have to write
    with PlanBar(place.name, total) if progress else nullcontext() as bar:

        def run(planned: Planned, where: Path) -> Record:
            settings = settled[planned.method][planned.seed]
            finished = load_lm_result(where) is not None
            result = run_lm(
                settings,
                where,
                resume=True,
                progress=bar.next(f"{planned.method}, seed {planned.seed}") if bar else False,
                parts=None if finished else shared.parts(settings),
            )
            return record_of(planned, result)

        return compare(plan.methods, plan.seeds, run, place, columns=plan.columns(), note=plan.note(), report=report)


def record_of(planned: Planned, result: RunResult) -> Record:
    """A run's result as a record of a comparison."""
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


def quiet_libraries() -> None:
    """No bars of transformers and datasets beside the one of the study."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()


class _Shared:
    """Models and rows, loaded once for all runs that name the same."""

    def __init__(self, answers: Path, progress: bool, parts: LmParts | None) -> None:
        self._answers, self._progress, self._given = answers, progress, parts
        self._known: tuple[Any, LmParts] | None = None

    def parts(self, settings: LmRun) -> LmParts:
        """What a run names."""
        from abkd.lm import load_parts

        if self._given is not None:
            return self._given
        named = (settings.student, settings.teacher, settings.data, settings.evaluation)
        if self._known is None or self._known[0] != named:
            self._known = named, load_parts(settings, self._answers, progress=self._progress)
        return self._known[1]
