"""The folder of one run: what lies where, and the rule that nothing in it is overwritten unasked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from abkd.engine._environment import environment
from abkd.errors import CorruptFileError, InputError, RunExistsError
from abkd.storage import atomic_write_json, newest_complete, read_json, verify_manifest

RUN_FILE = "run.json"
DATA_FILE = "data.json"
_ENVIRONMENT = "environment.json"
_CHECKPOINTS = "checkpoints"
_SPLITS = ("train", "validation", "test", "pretrain")
_METRICS, _SAMPLES, _RESULT = "metrics.jsonl", "samples.json", "result.json"
_BEST, _LAST, _EVALUATION = "best", "last", "evaluation"
ANSWERS, TEACHER_TEXT = "answers", "teacher_text"
_FILES = (DATA_FILE, _ENVIRONMENT, _METRICS, _SAMPLES, _RESULT)
_FOLDERS = (_CHECKPOINTS, ANSWERS, TEACHER_TEXT, _BEST, _LAST, _EVALUATION)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    `run.json` holds the settings, `data.json` fingerprints of its data and teacher, `environment.json` versions and
    machine, `metrics.jsonl` one line a logged step, `checkpoints/` what a resumed run starts from, `best/` and `last/`
    the models, and `result.json`, written last, what was measured. A language run may also leave `answers/` and
    `teacher_text/` (the teacher's, trained on), `evaluation/` (texts of the test sets) and `samples.json` (a few texts
    before and after).
    """

    path: Path

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> RunFolder:
        """Open a folder for a run with these settings (plain data).

        An absent or empty folder is started. A folder that holds a run needs `resume` (its settings must be
        the same) or `overwrite` (the files of the old run are removed, nothing else is).

        Raises:
            RunExistsError: the folder holds a run, and neither was given.
            InputError: both were given; the folder holds other files but no run; the settings differ.
        """
        run = cls.check(path, settings, resume=resume, overwrite=overwrite)
        if run.holds_run() and resume:
            return run
        run._clear()  # but for run.json, so that an overwriting that is killed can be told to go on
        run.path.mkdir(parents=True, exist_ok=True)
        atomic_write_json(run.path / _ENVIRONMENT, environment())
        atomic_write_json(run.path / RUN_FILE, settings)
        return run

    @classmethod
    def check(
        cls,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> RunFolder:
        """The checks of `create`, with the same errors; nothing is changed."""
        root = Path(path)
        if resume and overwrite:
            raise InputError("resume and overwrite exclude each other: choose one")
        if root.exists() and not root.is_dir():
            raise InputError(f"{root}: expected a folder for the run, found a file")
        run = cls(root)
        if not run.holds_run():
            if root.is_dir() and not all(_of_a_start(entry) for entry in root.iterdir()):
                raise InputError(f"{root}: holds files but no run; choose an empty or new folder")
        elif resume:
            run._check_same(settings)
        elif not overwrite:
            raise RunExistsError(
                f"{root}: already holds a run; resume it (--resume), overwrite it (--overwrite), "
                "or choose another folder"
            )
        return run

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.path / _CHECKPOINTS

    @property
    def metrics(self) -> Path:
        """The log, one JSON object a line."""
        return self.path / _METRICS

    @property
    def best(self) -> Path:
        """The model of the best epoch."""
        return self.path / _BEST

    @property
    def last(self) -> Path:
        """The model of the last epoch."""
        return self.path / _LAST

    @property
    def answers(self) -> Path:
        """Responses that the teacher wrote to the rows."""
        return self.path / ANSWERS

    @property
    def evaluation(self) -> Path:
        """Texts of the test sets."""
        return self.path / _EVALUATION

    @property
    def samples(self) -> Path:
        """A few texts before and after."""
        return self.path / _SAMPLES

    @property
    def result_path(self) -> Path:
        """What was measured; absent until the run is finished."""
        return self.path / _RESULT

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return (self.path / RUN_FILE).is_file()

    def settings(self) -> dict[str, Any]:
        """The settings that the run was started with.

        Raises:
            CorruptFileError: the file holds something else.
        """
        stored = read_json(self.path / RUN_FILE)
        if not isinstance(stored, dict):
            raise CorruptFileError(f"{self.path / RUN_FILE}: expected an object with the run's settings")
        return cast("dict[str, Any]", stored)

    def result(self) -> dict[str, Any] | None:
        """What the finished run measured, or None.

        Raises:
            CorruptFileError: the file cannot be read.
        """
        if not self.result_path.is_file():
            return None
        try:
            return read_json(self.result_path)
        except CorruptFileError as error:
            raise CorruptFileError(f"{error}; {self._again()}") from error

    def data(self) -> dict[str, str]:
        """Fingerprints of what the run was started with; empty where none were kept."""
        file = self.path / DATA_FILE
        return cast("dict[str, str]", read_json(file)) if file.is_file() else {}

    def changed(self, fingerprints: Mapping[str, str], *, whole: bool = False) -> str:
        """What is not as the run was started with, in words; "" where nothing is, or nothing was noted of it then.

        Args:
            fingerprints: of the splits and the models, as in `write_data`.
            whole: they are all that there are now, so that a split which one of the two lacks has changed as well.
        """
        before = self.data()
        names = {name for name in before if name in fingerprints}
        if whole and before:
            names |= {name for name in {*before, *fingerprints} if name in _SPLITS}
        differing = sorted(name for name in names if before.get(name) != fingerprints.get(name))
        splits = [name for name in differing if name in _SPLITS]
        words = [f"the {' and '.join(splits)} data"] if splits else []
        return " and ".join([*words, *(f"the {name}" for name in differing if name not in _SPLITS)])

    def write_data(self, fingerprints: Mapping[str, str]) -> None:
        """Keep fingerprints: of splits by their names, and of anything else by what a message is to call it."""
        atomic_write_json(self.path / DATA_FILE, dict(fingerprints))

    def check_models(self) -> None:
        """The models of a finished run are as they were saved.

        Raises:
            CorruptFileError: a file has changed, or is missing.
        """
        for folder in (self.best, self.last):
            if not folder.is_dir():
                continue
            try:
                verify_manifest(folder)
            except CorruptFileError as error:
                raise CorruptFileError(f"{error}; {self._again()}") from error

    def _again(self) -> str:
        return f"restore it from a copy, or remove the folder {self.path} and --resume makes this run again"

    def write_result(self, value: Mapping[str, Any]) -> None:
        """Write what was measured; this marks the run as finished."""
        atomic_write_json(self.result_path, value)

    def newest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole, or None."""
        return newest_complete(self.checkpoints)

    def trained_teacher(self) -> Path | None:
        """The teacher's run in the study whose `runs/METHOD/seed-SEED` this is, if the study trained one."""
        parents = self.path.resolve().parents
        own = parents[2] / "teacher" if len(parents) > 2 else None
        return own if own is not None and (own / RUN_FILE).is_file() else None

    def _check_same(self, settings: Mapping[str, Any]) -> None:
        stored = self.settings()
        differing = sorted(_differences(stored, self._where_it_lies_now(stored, settings)))
        if differing:
            raise InputError(
                f"{self.path}: cannot resume, the run there was started with other settings: "
                f"{'; '.join(differing)}. Restore them, or overwrite the run"
            )

    def _where_it_lies_now(self, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, with the old location of a teacher that the study around this run trained.

        Such a teacher moves with the study's folder, and a folder has more than one spelling: neither makes another
        run.
        """
        old, new, own = stored.get("teacher"), settings.get("teacher"), self.trained_teacher()
        if own is None or not isinstance(old, dict) or not isinstance(new, dict):
            return dict(settings)
        moved: dict[str, Any] = {**new}
        for key in ("name", "model"):
            place = moved.get(key)
            if key in old and isinstance(place, str) and Path(place).resolve() in (own, own / _BEST):
                moved[key] = old[key]
        return {**settings, "teacher": moved}

    def _clear(self) -> None:
        for name in _FILES[::-1]:
            (self.path / name).unlink(missing_ok=True)
        for name in _FOLDERS if self.holds_run() else ():
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)


def _of_a_start(entry: Path) -> bool:
    """Left by a run that was killed while it was starting; or hidden, and no business of ours."""
    if entry.name == _CHECKPOINTS:
        return entry.is_dir() and not any(entry.iterdir())
    return entry.name.startswith(".") or entry.name in (_ENVIRONMENT, DATA_FILE)


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for key in {*old, *new}:
            found += _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        return found
    return [] if old == new else [f"{path} was {old!r}, now {new!r}"]
