"""The weights of the best evaluation so far, kept in memory and in every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from abkd.errors import InputError, nearest

_WEIGHTS_FILE = "best.safetensors"


@dataclass
class BestWeights:
    """The first evaluation that no later one surpasses, by one metric on the validation split.

    Attributes:
        select_by: the metric's name, without "eval_".
        larger_is_better: whether a larger value of it is a better one.
        value: the best value so far, None before any evaluation.
        epoch: when it was reached, in epochs from 0 (1.0 is after the first epoch).
        step: the same in optimiser steps.
        weights: the model's state then, on the CPU.
    """

    select_by: str
    larger_is_better: bool
    value: float | None = None
    epoch: float = 0.0
    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor], repr=False)

    @classmethod
    def by(cls, metric: str, known: Mapping[str, bool], larger_is_better: bool | None = None) -> BestWeights:
        """None yet, to be chosen by `metric`.

        Args:
            metric: its name, without "eval_".
            known: whether larger is better, by the name of each metric that the trainer itself gives.
            larger_is_better: the same of a metric that a user computes.

        Raises:
            InputError: a metric that is not known, and nothing says which values of it are better.
        """
        found = known.get(metric, larger_is_better)
        if found is None:
            raise InputError(
                f"select_by: no such metric as {metric!r}; {nearest(metric, known)}. For a metric of your own "
                "(compute_metrics) set greater_is_better as well"
            )
        return cls(metric, found)

    def offer(self, metrics: dict[str, float], model: nn.Module, epoch: float, step: int) -> bool:
        """Take this evaluation if it is better than all before it; a tie keeps the earlier one.

        A value that is not finite is never taken.

        Raises:
            InputError: the evaluation did not report the metric.
        """
        key = f"eval_{self.select_by}"
        if key not in metrics:
            names = [name.removeprefix("eval_") for name in metrics]
            raise InputError(f"select_by={self.select_by!r} was not evaluated; {nearest(self.select_by, names)}")
        value = float(metrics[key])
        if not math.isfinite(value):
            return False
        better = self.value is None or (value > self.value if self.larger_is_better else value < self.value)
        if better:
            self.value, self.epoch, self.step = value, epoch, step
            self.weights = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
        return better

    def clear(self) -> None:
        """Forget everything, before another training."""
        self.value, self.epoch, self.step, self.weights = None, 0.0, 0, {}

    def save(self, folder: Path) -> dict[str, Any] | None:
        """Write the weights to `folder`; returns what goes with them as plain data, None without weights."""
        if self.value is None:
            return None
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in self.weights.items()}, folder / _WEIGHTS_FILE)
        return {"select_by": self.select_by, "value": self.value, "epoch": self.epoch, "step": self.step}

    def load(self, folder: Path, fields: dict[str, Any] | None) -> None:
        """Restore what `save` wrote to `folder`."""
        self.clear()
        if fields is None or fields["select_by"] != self.select_by:
            return
        from safetensors.torch import load_file

        self.value, self.epoch, self.step = fields["value"], fields["epoch"], fields["step"]
        self.weights = load_file(folder / _WEIGHTS_FILE)
