"""What is minimised on a text: a divergence from the teacher and the cross-entropy, with values that may change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from abkd.divergences import Divergence
from abkd.divergences import by_name as divergence_named
from abkd.divergences import names as divergence_names
from abkd.engine import Schedule, as_schedule, is_schedule
from abkd.errors import InputError
from abkd.lm._hidden import Predictions
from abkd.losses import DenseTargets, HiddenTargets, SparseTargets, Targets, divergence_loss, linear_divergence_loss

_MOMENTS = 20  # of a run at which a divergence that moves is looked at
_RANGES = {"temperature": "above 0", "ce_weight": "of at least 0", "kd_weight": "of at least 0"}


@dataclass(frozen=True)
class Objective:
    """`ce_weight` times cross-entropy plus `kd_weight` times divergence, at one moment of a run.

    Attributes:
        divergence: None where nothing is compared.
        temperature: of both distributions in the divergence, above 0. (Sampling has its own.)
        ce_weight, kd_weight: at least 0.
    """

    divergence: Divergence | None
    temperature: float = 1.0
    ce_weight: float = 0.0
    kd_weight: float = 1.0

    def on_own_text(self) -> Objective:
        """The objective on the student's own text: never its cross-entropy."""
        return replace(self, ce_weight=0.0)

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher is asked."""
        return self.divergence is not None and self.kd_weight > 0


class ScheduledObjective:
    """The objective at each point of a run; any number in it may be a schedule.

    Args:
        divergence: `{"name": ..., setting: number or schedule}`, or None for cross-entropy alone.
        weights: `temperature`, `ce_weight` and `kd_weight`, numbers or schedules.

    Raises:
        InputError: an unknown name or setting, or a value out of range at the start or the end of the run.
    """

    def __init__(self, divergence: Mapping[str, Any] | None, weights: Mapping[str, Any]) -> None:
        if divergence is not None and "name" not in divergence:
            raise InputError("divergence: 'name' is missing, e.g. {'name': 'alpha_beta', 'alpha': 0.2, 'beta': 0.7}")
        self._divergence = None if divergence is None else _read(divergence, "divergence")
        self._weights = _read(weights, "loss")
        values = (*(self._divergence or {}).values(), *self._weights.values())
        self._changes = any(isinstance(value, Schedule) for value in values)
        self._first, self._last = self._build(0.0), self._build(1.0)
        if not self.needs_teacher and not self.uses_labels:
            raise InputError("the loss is empty: kd_weight and ce_weight are 0")

    def at(self, progress: float) -> Objective:
        """The objective when the share `progress` of the run is done."""
        return self._build(progress) if self._changes else self._first

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher is asked at any time."""
        return self._first.needs_teacher or self._last.needs_teacher

    @property
    def uses_labels(self) -> bool:
        """Whether the cross-entropy counts at any time."""
        return self._first.ce_weight > 0 or self._last.ce_weight > 0

    @property
    def temperatures(self) -> set[float]:
        """The temperatures at the start and at the end."""
        return {self._first.temperature, self._last.temperature}

    def divergences(self) -> list[Divergence]:
        """Those of a run, each once; where they move, those at evenly spaced moments."""
        moments = (self.at(step / _MOMENTS).divergence for step in range(_MOMENTS + 1))
        return [divergence for divergence in dict.fromkeys(moments) if divergence is not None]

    def describe(self) -> str:
        """In words, with the named special case of an alpha-beta-divergence."""
        parts = [_words(moment) for moment in (self._first, self._last)]
        return parts[0] if parts[0] == parts[1] else f"from {parts[0]} to {parts[1]}"

    def _build(self, progress: float) -> Objective:
        divergence = None
        if self._divergence is not None:
            values = _at(self._divergence, progress)
            divergence = divergence_named(values.pop("name"), **values)
        weights = _at(self._weights, progress)
        for name, value in weights.items():
            if value < 0 or (name == "temperature" and value == 0):
                raise InputError(f"{name}: expected a finite number {_RANGES[name]}, got {value}")
        objective = Objective(divergence, **weights)
        if divergence is None and objective.ce_weight == 0:
            raise InputError("the loss is empty: no divergence, and ce_weight is 0")
        return objective


def named(divergence: Divergence) -> dict[str, Any]:
    """A divergence as `{"name": ..., setting: value}`, from which `divergence_named` makes an equal one.

    Raises:
        InputError: it has no name: a weighted sum, or one of the user's own.
    """
    settings = {field.name: getattr(divergence, field.name) for field in fields(cast("Any", divergence))}
    key = getattr(divergence, "key", None)
    if key not in divergence_names() or type(divergence_named(key, **settings)) is not type(divergence):
        raise InputError(
            f"divergence: {divergence!r} has no name that settings can keep: give one of "
            f"{', '.join(divergence_names())}"
        )
    return {"name": key, **settings}


LANGUAGE_MODELLING = Objective(None, ce_weight=1.0, kd_weight=0.0)
"""Cross-entropy alone."""


def objective_loss(student: Predictions, teacher: Targets | None, labels: Tensor, objective: Objective) -> Tensor:
    """The mean objective over rows.

    Args:
        student: rows (N, ...) of the student's predictions.
        teacher: the targets of the same rows; None where the objective needs none.
        labels: the tokens that follow, (N,).
        objective: what is minimised.

    Returns:
        A scalar in nats, float32; 0 with a gradient of 0 where N is 0.
    """
    if len(labels) == 0:
        return (student.states * 0.0).sum(dtype=torch.float32)
    if student.weight is None:
        return _from_logits(student.logits(), teacher, labels, objective)
    compared = objective.needs_teacher
    return head_loss(
        student,
        teacher if compared else None,
        objective.divergence if compared else None,
        labels=labels if objective.ce_weight > 0 else None,
        ce_weight=objective.ce_weight,
        kd_weight=objective.kd_weight if compared else 0.0,
        temperature=objective.temperature,
    )


def head_loss(student: Predictions, teacher: Targets | None, divergence: Divergence | None, **options: Any) -> Tensor:
    """`linear_divergence_loss` of a student whose head is read apart; `options` are its own.

    Raises:
        InputError: the student gives logits alone.
    """
    states, weight, bias = student.states, student.weight, student.bias
    if weight is None:
        raise InputError("this needs a student whose head can be read apart from its hidden states")
    if not torch.is_autocast_enabled(states.device.type):
        weight, bias = weight.to(states.dtype), None if bias is None else bias.to(states.dtype)
    shape = {"student_bias": bias, "logit_scale": student.scale, "softcap": student.softcap}
    fused = cast("Callable[..., Tensor]", linear_divergence_loss)
    return fused(states, weight, teacher, divergence, vocabulary=student.classes, **shape, **options)


def dense_logits(targets: HiddenTargets | DenseTargets, rows: Any = slice(None), classes: int | None = None) -> Tensor:
    """The teacher's logits of some rows, in its own precision."""
    if isinstance(targets, DenseTargets):
        return targets.logits[rows][..., :classes]
    parts = (targets.weight, targets.bias, targets.logit_scale, targets.softcap, classes)
    return Predictions(targets.hidden[rows], *parts).logits()


def _from_logits(logits: Tensor, teacher: Targets | None, labels: Tensor, objective: Objective) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = wide.new_zeros(())
    if objective.ce_weight > 0:
        loss = loss + objective.ce_weight * nn.functional.cross_entropy(wide, labels)
    if objective.needs_teacher and objective.divergence is not None:
        if teacher is None or isinstance(teacher, SparseTargets):
            raise InputError("a cached teacher serves students whose head can be read apart: use a live one")
        targets = dense_logits(teacher, classes=wide.shape[-1]).to(wide)
        value = divergence_loss(wide, targets, objective.divergence, temperature=objective.temperature)
        loss = loss + objective.kd_weight * value
    return loss


def _words(objective: Objective) -> str:
    parts: list[str] = []
    if objective.divergence is not None:
        weight = "" if objective.kd_weight == 1 else f"{objective.kd_weight:g} x "
        temperature = "" if objective.temperature == 1 else f" at temperature {objective.temperature:g}"
        parts.append(f"{weight}{objective.divergence.name}{temperature}")
    if objective.ce_weight > 0:
        parts.append(f"{objective.ce_weight:g} x cross-entropy")
    return " + ".join(parts)


def _read(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {name: _read_one(f"{where}.{name}", value, name in _RANGES) for name, value in values.items()}


def _read_one(where: str, value: Any, numeric: bool) -> Any:
    """A schedule where one is written or the value has to be a number; a constant one as its number."""
    if not numeric and not is_schedule(value):
        return value
    try:
        schedule = as_schedule(value)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return schedule.at(0.0) if schedule.shape == "constant" else schedule


def _at(values: Mapping[str, Any], progress: float) -> dict[str, Any]:
    return {name: value.at(progress) if isinstance(value, Schedule) else value for name, value in values.items()}
