"""A study from its plan to its reports: the teacher once, then every method with every seed, on the same data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict, Unpack

from abkd.errors import InputError
from abkd.storage import atomic_write_json
from abkd.study._bar import PlanBar
from abkd.study._compare import compare, plan
from abkd.study._folder import opened
from abkd.study._plan import TEACHER, StudyPlan
from abkd.study._records import Comparison, Failure, Planned, Record

if TYPE_CHECKING:
    from abkd.engine import RunResult


class StudyOptions(TypedDict, total=False):
    """The keyword arguments of `run_opened`, for whoever passes them on."""

    progress: bool
    teacher_ready: Callable[[RunResult], None] | None
    report: Callable[[Planned, Record | Failure], None] | None
    shared: Mapping[str, Any] | None


def run_study(
    study: StudyPlan[Any],
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    **options: Unpack[StudyOptions],
) -> Comparison:
    """Train the teacher if the plan says so, then every method with every seed, and write all reports.

    The folder gets `teacher/` (a run), `runs/METHOD/seed-SEED/` (runs), `answers/` (the responses of a language
    model's teacher, where the data ask for them), `environment.json` and the reports of `write_reports`.
    Interrupted, it goes on with `resume=True`: finished runs are kept, an unfinished one starts from its newest
    whole checkpoint. Models and data are loaded once for all runs.

    Launched as several processes (accelerate, torchrun), all of them call this and get the comparison, and train
    every run together; the first one alone writes, reports and shows progress. A run that fails then ends the study.

    Args:
        study: What to run.
        folder: Where to.
        resume: Keep what is finished in `folder`.
        overwrite: Replace what `folder` holds.
        **options: As of `run_opened`.

    Raises:
        RunExistsError: `folder` holds a comparison, and neither `resume` nor `overwrite` was given.
        InputError: Settings that do not fit together, or a plan whose table would be empty.
        AbkdError: The teacher's training failed. (A student's failure is kept in the comparison.)
    """
    with opened(folder, study, resume=resume, overwrite=overwrite) as place:
        return run_opened(study, place, **options)


def run_opened(
    study: StudyPlan[Any],
    place: Path,
    *,
    progress: bool = True,
    teacher_ready: Callable[[RunResult], None] | None = None,
    report: Callable[[Planned, Record | Failure], None] | None = None,
    shared: Mapping[str, Any] | None = None,
) -> Comparison:
    """`run_study` in a folder that `opened` opened; what is finished there is kept.

    Args:
        study: What to run.
        place: The folder.
        progress: Show one progress bar for all runs.
        teacher_ready: Is told the result of the teacher's own training.
        report: Is told each run's outcome.
        shared: Keyword arguments of every student's run, in place of loading what the runs name.

    Raises:
        InputError: What is to run has other data, test sets, teacher or cache than a run that is finished.
    """
    from abkd.engine import environment, is_main, load_result, on_main

    on_main(lambda: atomic_write_json(place / "environment.json", environment()))
    progress = progress and is_main()
    work, settled = study.work(place, progress), study.settled(place)
    runs = {place / each.folder: settled[each.method][each.seed] for each in plan(study.methods, study.seeds)}
    if study.teacher is not None:
        runs = {place / TEACHER: study.teacher, **runs}
    waiting = [where for where in runs if load_result(where) is None]
    new = [where for where in waiting if where != place / TEACHER]
    finished = [where for where in runs if where not in waiting and where != place / TEACHER]

    def parts(where: Path) -> Mapping[str, Any]:
        return work.share(runs[where]) if shared is None or where == place / TEACHER else shared

    def check_new() -> None:
        """What is to run goes with what is finished."""
        if new:
            found = parts(new[0])
            on_main(lambda: _check_same(finished, work.fingerprints(found)))

    if waiting == new:
        check_new()  # before the bar: loading may show one of its own
    else:
        parts(waiting[0])
    with PlanBar(place.name, len(runs)) if progress else nullcontext() as bar:

        def run(label: str, where: Path) -> RunResult:
            told = bar.next(label) if bar else False
            return work.run(
                runs[where], where, resume=True, progress=told, **(parts(where) if where in waiting else {})
            )

        def record(planned: Planned, where: Path) -> Record:
            return Record(planned.method, **run(f"{planned.method}, seed {planned.seed}", where).to_dict())

        if study.teacher is not None:
            result = run("teacher", place / TEACHER)
            if teacher_ready is not None and is_main():
                teacher_ready(result)
            if waiting != new:
                check_new()
        return compare(
            study.methods, study.seeds, record, place, columns=study.columns(), note=study.note(), report=report
        )


def _check_same(finished: Sequence[Path], fingerprints: Mapping[str, str]) -> None:
    """No row of the table mixes runs of different data."""
    from abkd.engine import RunFolder

    for run in finished:
        if changed := RunFolder(run).changed(fingerprints):
            raise InputError(
                f"{run}: is finished, and {changed} has changed since, so the other runs would not compare with it: "
                "restore it, or start anew with --overwrite or in another folder"
            )
