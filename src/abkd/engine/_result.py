"""What a finished run measured, and the lines of its log that say how it got there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abkd.engine._progress import ProgressBar, Report
from abkd.errors import CorruptFileError

_PREFIX = "validation_"


@dataclass(frozen=True)
class RunResult:
    """What a finished run measured; also in the run folder's `result.json`.

    Attributes:
        folder: the run folder.
        seed: of the run.
        seconds: wall time of training and measuring, without loading what several runs may share (a resumed run
            counts its last part).
        best_epoch: the epoch (from 1) with the best validation value of `select_by`; 0 is before any training.
        metrics: `metrics[split][which][name]`, split `validation` or `test`, which `best` (the epoch chosen
            on the validation split), `last`, or of a language model's test split also `start`. Names of an image
            run: `accuracy` (top-1, in [0, 1]), `top5`, `nll` (nats), `ece`, and with a teacher `agreement` (share
            of images on which student and teacher choose the same class). Names of a language run: `nll` and with
            a teacher `forward_kl`, `reverse_kl` (nats a token), `agreement` (share of tokens), and `rouge_l` where
            texts were evaluated, with `rouge_l_SET` and `exact_match_SET` of each set, and their standard errors over
            the sampling seeds (`..._error`). Without a validation split `best` is `last` and there is no `validation`.
        parameters: `{"student": n, "teacher": m or None}`, numbers of weights.
        history: one dict a log or evaluation: `epoch` (1.5 is in the middle of the second), `loss` (the training
            loss), `validation_nll`, ...
        teacher: the teacher's own metrics on the test split, or None.
    """

    folder: Path
    seed: int
    seconds: float
    best_epoch: int
    metrics: dict[str, dict[str, dict[str, float]]]
    parameters: dict[str, int | None]
    history: list[dict[str, float]]
    teacher: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data (the folder is left out: results may be moved)."""
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "best_epoch": self.best_epoch,
            "metrics": self.metrics,
            "parameters": self.parameters,
            "history": self.history,
            "teacher": self.teacher,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], folder: Path) -> RunResult:
        """The result that `to_dict` wrote, found in `folder`.

        Raises:
            CorruptFileError: it is something else.
        """
        try:
            return cls(folder=folder, **value)
        except TypeError as error:
            raise CorruptFileError(
                f"{folder / 'result.json'}: not the result of a run ({error}); run it again"
            ) from error


def history_of(log: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """One line an evaluation or log: the training loss and the validation metrics known at that epoch."""
    lines: dict[float, dict[str, float]] = {}
    for entry in log:
        if "loss" not in entry and "eval_loss" not in entry:
            continue
        line = lines.setdefault(entry["epoch"], {"epoch": entry["epoch"]})
        for key, value in entry.items():
            if key in ("loss", "learning_rate"):
                line[key] = value
            elif key.startswith("eval_") and not key.endswith(("_runtime", "_per_second", "_time")):
                line[_PREFIX + key.removeprefix("eval_")] = value
    return list(lines.values())


def validation_of(history: Sequence[Mapping[str, float]], best_epoch: float) -> dict[str, dict[str, float]]:
    """The validation metrics of the best and of the last epoch; empty without any."""
    validated = [line for line in history if any(key.startswith(_PREFIX) for key in line)]
    if not validated:
        return {}
    best = next(line for line in validated if line["epoch"] == best_epoch)
    return {"best": _validation(best), "last": _validation(validated[-1])}


def reporting(progress: bool | Report, label: str) -> AbstractContextManager[Any]:
    """A progress bar of this label for True, nothing for False, and a function as it is."""
    if progress is True:
        return ProgressBar(label)
    return nullcontext(None if progress is False else progress)


def _validation(line: Mapping[str, float]) -> dict[str, float]:
    return {key.removeprefix(_PREFIX): value for key, value in line.items() if key.startswith(_PREFIX)}
