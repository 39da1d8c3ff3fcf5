"""What the language trainer measures beside its loss: sums of training and evaluation, and their names in the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from abkd.lm._batch import OWN_TEXT, PRETRAIN, tokens_read
from abkd.lm._hidden import Predictions
from abkd.lm._metrics import Clock, Meter, comparison, rows_of_targets, spread
from abkd.lm._objective import Objective, objective_loss
from abkd.lm._validation_texts import ROUGE_L
from abkd.losses import Targets

_TOKENS = 256
METRICS = {"nll": False, "loss": False, "divergence": False, "forward_kl": False, "agreement": True, ROUGE_L: True}
"""What an evaluation gives to choose by, and whether more of it is better."""
SHARE = "student_text_share"
"""The metric's name: of the batches, what the student writes (or wrote, up to an evaluation)."""


class Measures:
    """Collects what a trainer's batches tell.

    Args:
        trainer: the trainer.

    Attributes:
        clock: tokens read, and how fast.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._meters = {"train": Meter(), "eval": Meter()}
        self.clock = Clock()

    def due(self) -> bool:
        """Whether a batch is compared in detail: all in evaluation, in training those of a step that is logged."""
        trainer = self._trainer
        if not trainer.model.training:
            return True
        args, state = trainer.args, trainer.state
        strategy = str(getattr(args.logging_strategy, "value", args.logging_strategy))
        if strategy != "steps":
            return strategy != "no"
        step, every = state.global_step + 1, max(int(state.logging_steps), 1)
        return step % every == 0 or (step == 1 and args.logging_first_step)

    def compare(
        self, rows: Predictions, labels: Tensor, targets: Targets | None, inputs: Mapping[str, Any], plain: Objective
    ) -> dict[str, Any]:
        """Sums over a batch's rows, and their number; in training over a few evenly spaced rows.

        Args:
            rows: the student's predictions (N, ...).
            labels: the tokens that follow, (N,).
            targets: the teacher's, or None.
            inputs: the batch.
            plain: the objective whose divergence is measured, without weights.
        """
        most = _TOKENS if self._trainer.model.training else None
        chosen = spread(len(labels), most).to(labels.device)
        picked = None if targets is None else rows_of_targets(targets, chosen)
        sums = comparison(rows.rows(chosen), labels[chosen], picked)
        if inputs.get(OWN_TEXT):
            sums.pop("nll", None)  # of text that it wrote itself: it says nothing
        if picked is not None and plain.divergence is not None and len(chosen):
            bare = Objective(plain.divergence, plain.temperature)
            value = objective_loss(rows.rows(chosen), picked, labels[chosen], bare)
            sums["divergence"] = float(value) * len(chosen)
        return {"sums": sums, "count": len(chosen)}

    def note(self, result: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Add a batch's loss and what `compare` gave for it."""
        training = self._trainer.model.training
        meter = self._meters["train" if training else "eval"]
        if result["sums"]:
            meter.add(result["sums"]["sums"], result["sums"]["count"])
        if training:
            plain = inputs.get(PRETRAIN)
            self.clock.add(tokens_read(inputs) + (0 if plain is None else tokens_read(plain)))
        else:
            count = self._trainer.count_items(inputs)
            meter.add({"loss": float(result["loss"].detach()) * count}, count)

    def begin_evaluation(self) -> None:
        """Forget the last evaluation."""
        self._meters["eval"] = Meter()

    def add_texts(self, total: float, count: int) -> None:
        """Add the sum of ROUGE-L (0 to 100) over this rank's texts of an evaluation, and their number."""
        self._meters["eval"].add({ROUGE_L: total}, count)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs of this rank to log the same numbers, as plain data."""
        return {"clock": self.clock.state(), "train": self._meters["train"].state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.clock.restore(state["clock"])
        self._meters["train"].restore(state["train"])

    def evaluated(self) -> dict[str, float]:
        """The means of the evaluation that was run, on all ranks."""
        return self._meters["eval"].take(self._trainer.accelerator)

    def trained(self) -> dict[str, float]:
        """The means of the training batches since the last call, on all ranks, and the tokens read."""
        accelerator = self._trainer.accelerator
        return {**self._meters["train"].take(accelerator), **self.clock.take(accelerator)}
