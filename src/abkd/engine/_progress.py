"""One progress bar for a run: a bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments
from typing_extensions import override

Report = Callable[[float, str], None]
"""Called with the share of the work done, in [0, 1], and a short text on where it stands."""

_LINES = 10


class ProgressCallback(TrainerCallback):
    """Tells `report` how far the training is: after each step, and the loss and a metric after each log.

    Args:
        report: is told.
        metric: on the validation split, without "eval_"; None is the loss alone.
    """

    def __init__(self, report: Report, metric: str | None = None) -> None:
        self._report = report
        self._shown = {"loss": "loss"} | ({} if metric is None else {f"eval_{metric}": f"validation {metric}"})
        self._text = ""

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report the step."""
        if state.is_world_process_zero and state.max_steps > 0:
            self._report(state.global_step / state.max_steps, self._text)

    @override
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take loss and metric into the text."""
        parts = [f"epoch {state.epoch or 0:.3g}"]
        for key, label in self._shown.items():
            for line in reversed(state.log_history):
                if key in line:
                    parts.append(f"{label} {line[key]:.4g}")
                    break
        self._text = ", ".join(parts)


class ProgressBar:
    """A progress bar on standard error: drawn by rich in a terminal, at most 11 plain lines elsewhere.

    Use it as a context, and call it as a `Report`.

    Args:
        description: stands before the bar.
    """

    def __init__(self, description: str) -> None:
        self._description = description
        self._printed = -1
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True, emoji=False),
            )
            self._task = self._progress.add_task(self._description, total=1.0, text="")
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, done: float, text: str) -> None:
        """Show that the share `done` of the work is done, in [0, 1]."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, text=text)
        elif int(done * _LINES) > self._printed:
            self._printed = int(done * _LINES)
            tail = f"  {text}" if text else ""
            print(f"{self._description}: {done:4.0%}{tail}", file=sys.stderr, flush=True)
