"""The callbacks that every trainer of this library brings along."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import (
    DefaultFlowCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from transformers.training_args import TrainingArguments
from typing_extensions import override

from abkd.storage import atomic_write_text

if TYPE_CHECKING:
    from abkd.engine._trainer import EngineTrainer


class EpochCallback(TrainerCallback):
    """Does what an epoch's end asks for within its last step.

    transformers logs, evaluates and saves for "epoch" strategies after the last step has been finished. A
    checkpoint of that very step ("steps" strategy) would then resume into the next epoch and skip the
    evaluation. Within the step, one order holds for all strategies: log, evaluate, save. It also tells the
    data set which epoch it is in, so that augmentation is a function of seed, epoch and index.
    """

    def __init__(self, trainer: EngineTrainer) -> None:
        self._trainer = trainer
        self._ended_at = -1
        self._default = DefaultFlowCallback()

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed the augmentation, and restore what transformers does not: the losses since the last log."""
        self._ended_at = -1
        set_seed = getattr(self._trainer.train_dataset, "set_seed", None)
        if set_seed is not None:
            set_seed(args.seed if args.data_seed is None else args.data_seed)
        self._trainer.restore_progress()

    @override
    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the epoch to the data set."""
        set_epoch = getattr(self._trainer.train_dataset, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(int(state.epoch or 0))

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """In the last step of an epoch, or of the run, ask for what the epoch's end would ask for."""
        if float(state.epoch or 0.5).is_integer() or state.global_step >= state.max_steps:
            self._default.on_epoch_end(args, state, control)
            self._ended_at = state.global_step

    @override
    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take back the same request where it was already met."""
        if self._ended_at == state.global_step:
            control.should_log = control.should_evaluate = control.should_save = False

    @override
    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the weights if this evaluation is the best so far."""
        if self._trainer.is_in_train:
            self._trainer.offer_best(kwargs["metrics"])


class MetricsLog(TrainerCallback):
    """Writes each log line to a file, one JSON object a line; a resumed run first drops what it will repeat.

    Numbers that are not finite are written as strings ("nan", "inf"), so that every line is standard JSON.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the file, with the lines of the part of the run that lies behind a checkpoint."""
        if state.is_world_process_zero:
            atomic_write_text(self.path, "".join(_json_line(line) for line in state.log_history))

    @override
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append the newest line."""
        if state.is_world_process_zero and state.log_history:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_json_line(state.log_history[-1]))


def _json_line(values: dict[str, Any]) -> str:
    plain = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(plain) + "\n"
