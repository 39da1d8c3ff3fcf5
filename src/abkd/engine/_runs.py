"""One run from its settings to its result, as far as it is the same whatever is trained."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch

from abkd.engine._processes import is_main, join, on_main, only_here, say
from abkd.engine._progress import ProgressCallback, Report
from abkd.engine._result import RunResult, history_of, reporting, validation_of
from abkd.engine._run_folder import RunFolder
from abkd.engine._trainer import EngineTrainer
from abkd.errors import InputError


class RunSettings(Protocol):
    """What the settings of any run have."""

    @property
    def method(self) -> str:
        """The method's name."""
        ...

    @property
    def seed(self) -> int:
        """The seed."""
        ...

    @property
    def training(self) -> Mapping[str, Any]:
        """Keyword arguments of the trainer's configuration."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data."""
        ...


class Measured(NamedTuple):
    """What was measured after training: `metrics[which][name]` of the test split, and the teacher's own metrics."""

    metrics: dict[str, dict[str, float]]
    teacher: dict[str, float] | None = None


@dataclass
class OpenRun:
    """A run and its folder, which is changed only when the run begins.

    In a run of several processes the first one alone touches the folder, and the others wait for it.

    Attributes:
        settings: of the run.
        folder: of the run.
        resume, overwrite: what a run in the folder means; see `RunFolder.create`.
    """

    settings: RunSettings
    folder: RunFolder
    resume: bool = False
    overwrite: bool = False
    _begun: bool = field(default=False, init=False)
    _data: dict[str, str] = field(default_factory=dict[str, str], init=False)

    @classmethod
    @contextmanager
    def opened(
        cls, settings: RunSettings, folder: str | os.PathLike[str], *, resume: bool, overwrite: bool
    ) -> Generator[OpenRun]:
        """`check`, with other programs kept from the folder for the length of the block.

        Raises:
            InputError: as `check`; or another process is using the folder.
        """
        join(settings.training)
        with only_here(folder):
            yield cls.check(settings, folder, resume=resume, overwrite=overwrite)

    @classmethod
    def check(cls, settings: RunSettings, folder: str | os.PathLike[str], *, resume: bool, overwrite: bool) -> OpenRun:
        """The run, if its folder may be used for it.

        Raises:
            RunExistsError: `folder` holds a run, and neither `resume` nor `overwrite` was given.
            InputError: a seed out of range; the run in the folder has other settings.
        """
        if not 0 <= settings.seed < 2**32:
            raise InputError(f"seed must be a whole number in [0, 2**32), got {settings.seed!r}")
        join(settings.training)
        on_main(lambda: RunFolder.check(folder, settings.to_dict(), resume=resume, overwrite=overwrite))
        return cls(settings, RunFolder(Path(folder)), resume, overwrite)

    def finished(self) -> RunResult | None:
        """The result, where the run to resume is finished already.

        Raises:
            CorruptFileError: the result cannot be read, or a saved model has changed since.
        """
        result = load_result(self.folder.path) if self.resume else None
        if result is not None:
            self.folder.check_models()
            if is_main():
                self._drop_checkpoints()  # of a run that was killed between the two
        return result

    def on_data(self, fingerprints: Mapping[str, str]) -> None:
        """Keep fingerprints of the run's data and teacher, and compare them with those that it was started with.

        Args:
            fingerprints: as for `RunFolder.write_data`.

        Raises:
            InputError: what the run to resume was started with has changed.
        """
        changed = self.folder.changed(fingerprints, whole=True) if self.resume else ""
        if changed:
            raise InputError(
                f"{self.folder.path}: cannot resume, {changed} has changed since the run was started: restore it, or "
                "start anew with --overwrite or in another folder"
            )
        self._data = dict(fingerprints)
        if self._begun:
            on_main(self._note_data)

    def begin(self) -> None:
        """Write what the run is into its folder; once."""
        if not self._begun:
            on_main(self._create)
        self._begun = True

    def _create(self) -> None:
        RunFolder.create(self.folder.path, self.settings.to_dict(), resume=self.resume, overwrite=self.overwrite)
        self._note_data()

    def _note_data(self) -> None:
        if self._data:
            self.folder.write_data(self._data)

    def carry_out(
        self,
        trainer: EngineTrainer,
        test: Callable[[], Measured],
        *,
        parameters: dict[str, int | None],
        progress: bool | Report = True,
        description: str | None = None,
    ) -> RunResult:
        """Train from the newest checkpoint, save and measure with `test`, and write the result.

        The checkpoints are removed at the end.

        Args:
            trainer: of the run.
            test: saves the models of the best and the last epoch and measures them; called in every process.
            parameters: numbers of weights by model.
            progress: show a progress bar; or a function to be told the share done and a short text.
            description: the label of the progress bar; the method and the seed if None.
        """
        started = time.monotonic()
        self.begin()
        checkpoint = self.folder.newest_checkpoint() if self.resume else None
        label = description or f"{self.settings.method}, seed {self.settings.seed}"
        with reporting(progress if is_main() else False, label) as report:
            if report is not None:
                trainer.add_callback(ProgressCallback(report, trainer.best and trainer.best.select_by))
            trainer.train(None if checkpoint is None else str(checkpoint))
        tested = test()
        result = self._result(trainer, tested, parameters, time.monotonic() - started)
        on_main(lambda: self._finish(result))
        return result

    def _finish(self, result: RunResult) -> None:
        self.folder.write_result(result.to_dict())
        self._drop_checkpoints()

    def _drop_checkpoints(self) -> None:
        shutil.rmtree(self.folder.checkpoints, ignore_errors=True)

    def _result(
        self, trainer: EngineTrainer, tested: Measured, parameters: dict[str, int | None], seconds: float
    ) -> RunResult:
        history = _finite(history_of(trainer.state.log_history), "history")
        metrics: dict[str, dict[str, dict[str, float]]] = {}
        best_epoch = history[-1]["epoch"] if history else 0.0
        if trainer.best is not None and trainer.best.value is not None:
            best_epoch = trainer.best.epoch
            validated = validation_of(history, best_epoch)
            if validated:
                metrics["validation"] = validated
        if any(tested.metrics.values()):
            metrics["test"] = _finite(tested.metrics, "test")
        return RunResult(
            folder=self.folder.path,
            seed=self.settings.seed,
            seconds=seconds,
            best_epoch=math.ceil(best_epoch),
            metrics=metrics,
            parameters=parameters,
            history=history,
            teacher=_finite(tested.teacher, "teacher"),
        )


def _finite(values: Any, where: str) -> Any:
    """Nested values without the numbers that are not finite, which JSON cannot hold; says which."""
    odd: dict[str, None] = {}

    def kept(value: Any) -> Any:
        if isinstance(value, list):
            return [kept(each) for each in cast("list[Any]", value)]
        if not isinstance(value, dict):
            return value
        pairs = cast("dict[str, Any]", value).items()
        broken = [name for name, each in pairs if isinstance(each, float) and not math.isfinite(each)]
        odd.update(dict.fromkeys(broken))
        return {name: kept(each) for name, each in pairs if name not in broken}

    found = kept(values)
    if odd:
        say(f"result.json, {where}: {', '.join(odd)} are not finite in places and left out there")
    return found


def load_result(folder: str | os.PathLike[str]) -> RunResult | None:
    """The result of the run in `folder` if it is finished, else None.

    Raises:
        CorruptFileError: the result cannot be read.
    """
    run = RunFolder(Path(folder))
    found = run.result()
    return None if found is None else RunResult.from_dict(found, run.path)


def size_of(module: Any) -> int:
    """The number of weights of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def place_of(training: Mapping[str, Any]) -> Any:
    """Where a model that only reads and writes goes: this process's accelerator if there is one.

    Args:
        training: of a run; its `use_cpu` keeps everything on the CPU.
    """
    found = None if training.get("use_cpu") else torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else torch.device(found.type, int(os.environ.get("LOCAL_RANK", "0")))
