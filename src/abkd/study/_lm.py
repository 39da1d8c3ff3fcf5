"""Language studies: what their table shows, and what their runs share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from abkd.study._plan import Newest, StudyPlan, Work
from abkd.study._records import Column, Comparison
from abkd.study._study import StudyOptions, run_study

if TYPE_CHECKING:
    from abkd.lm import LmParts, LmRun, LmTeacher

_HELD_OUT = (
    Column("KL", "forward_kl", digits=3, higher_is_better=False, optional=True),
    Column("KL at start", "forward_kl", which="start", digits=3, higher_is_better=False, optional=True),
    Column("NLL", "nll", digits=3, higher_is_better=False),
    Column("NLL at start", "nll", which="start", digits=3, higher_is_better=False),
    Column("agreem. %", "agreement", scale=100, digits=1, optional=True),
)
_SPREAD = "Mean ± standard deviation over n seeds, of {epoch}."
_MEANING = {
    "KL": "KL: forward KL from the teacher to the student, in nats a token on {split} rows",
    "NLL": "NLL: of the responses, in nats a token on {split} rows",
    "NLL at start": "at start: before any training",
    "agreem. %": "agreem.: share of the tokens on which both models prefer the same",
    "ROUGE-L": "ROUGE-L: of sampled responses to the test sets, 0 to 100",
}


@dataclass(frozen=True)
class LmPlan(StudyPlan["LmRun"]):
    """What a language study runs; see `StudyPlan`."""

    def trained(self, folder: Path) -> LmTeacher:
        """The teacher of the runs, trained in this run folder."""
        from abkd.lm import LmTeacher

        return LmTeacher(str(folder / "best"))

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
        epoch = "the last epoch" if run.data.validation is None else "the epoch chosen by the validation rows"
        shown = {column.title for column in self.columns()}
        meaning = "; ".join(text for title, text in _MEANING.items() if title in shown)
        return f"{_SPREAD} {meaning}.".format(split=split, epoch=epoch) if meaning else ""

    def work(self, place: Path, progress: bool) -> Work:
        """`run_lm`, with models and rows loaded once for all runs that name the same."""
        from abkd.engine import ANSWERS
        from abkd.lm import METHODS, load_parts, run_lm

        quiet_libraries()
        parts: Newest[LmParts] = Newest()
        prompts = self.teacher is None and all(METHODS[method].teacher_text for method in self.methods)

        def share(run: LmRun) -> dict[str, Any]:
            named = (run.student, run.teacher, run.data, run.evaluation)
            options: dict[str, Any] = {"prompts": prompts, "progress": progress}
            return {"parts": parts.of(named, lambda: load_parts(run, place / ANSWERS, **options))}

        def fingerprints(shared: Mapping[str, Any]) -> dict[str, str]:
            return shared["parts"].fingerprints() if "parts" in shared else {}

        return Work(run_lm, share, fingerprints)


def run_lms(
    plan: LmPlan,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    parts: LmParts | None = None,
    **options: Unpack[StudyOptions],
) -> Comparison:
    """`run_study` of a language plan; `parts` are models and rows, loaded already, that the plan's runs name."""
    shared: StudyOptions = options if parts is None else {**options, "shared": {"parts": parts}}
    return run_study(plan, folder, resume=resume, overwrite=overwrite, **shared)


def quiet_libraries() -> None:
    """No bars of transformers and datasets beside the one of the study."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
