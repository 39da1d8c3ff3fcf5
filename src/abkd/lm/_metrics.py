"""How student and teacher compare on the tokens that count, summed over batches and ranks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from abkd.lm._hidden import Predictions
from abkd.lm._objective import dense_logits
from abkd.losses import SparseTargets, Targets

STUDENT_TOP = 10
"""The student's most probable tokens in which the teacher's mass is counted."""
_BLOCK = 128
_PER_ROW = ("hidden", "logits", "ids", "log_probs", "log_tail", "log_power_tail")


class Meter:
    """Weighted means that are gathered over ranks when they are read; all ranks have to `take` at the same time."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, sums: Mapping[str, float], weight: float) -> None:
        """Add sums over `weight` items each."""
        for name, value in sums.items():
            total, count = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (total + float(value), count + weight)

    def state(self) -> dict[str, tuple[str, float]]:
        """What was added on this rank, as plain data; a sum need not be finite, so it is text."""
        return {name: (total.hex(), count) for name, (total, count) in self._sums.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._sums = {name: (float.fromhex(total), count) for name, (total, count) in state.items()}

    def take(self, accelerator: Any) -> dict[str, float]:
        """The means over all ranks, without those over nothing; what was added is forgotten."""
        parts = [self._sums]
        if accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            parts = cast("list[dict[str, tuple[float, float]]]", gather_object(parts))
        self._sums = {}
        means: dict[str, float] = {}
        for name in sorted({name for part in parts for name in part}):
            found = [part[name] for part in parts if name in part]
            count = sum(weight for _, weight in found)
            if count > 0:
                means[name] = sum(total for total, _ in found) / count
        return means


class Clock:
    """Tokens read and how fast: all tokens of training batches but padding, on all ranks.

    Attributes:
        tokens: read so far in the run.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._since = 0
        self._start: float | None = None

    def start(self) -> None:
        """A step begins; the first one starts the clock."""
        if self._start is None:
            self._start = time.perf_counter()

    def add(self, tokens: int) -> None:
        """Count tokens of this rank's batch."""
        self._since += tokens

    def state(self) -> dict[str, int]:
        """Tokens of the run up to the last log, and since then on this rank."""
        return {"tokens": self.tokens, "since": self._since}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from what `state` gave."""
        self.tokens, self._since = state["tokens"], state["since"]

    def take(self, accelerator: Any) -> dict[str, float]:
        """`num_tokens` of the run and `tokens_per_second` since the last call (evaluation times included)."""
        now = time.perf_counter()
        seconds = now - (now if self._start is None else self._start)
        since = torch.tensor(self._since, device=accelerator.device)
        if accelerator.num_processes > 1:
            since = accelerator.reduce(since, "sum")
        self.tokens += int(since)
        self._since, self._start = 0, now
        found = {"num_tokens": float(self.tokens)}
        return {**found, "tokens_per_second": int(since) / seconds} if seconds > 0 else found


def spread(count: int, most: int | None) -> Tensor:
    """Up to `most` of `count` row numbers, evenly spaced; all where `most` is None."""
    if most is None or count <= most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most).round().long()


@torch.no_grad()
def comparison(student: Predictions, labels: Tensor, targets: Targets | None) -> dict[str, float]:
    """Sums over rows of what tells how far the student is.

    Args:
        student: rows (N, ...).
        labels: the tokens that follow, (N,).
        targets: the teacher's, of the same rows, or None.

    Returns:
        `nll`: negative log-likelihood of the labels, nats. `student_entropy`: nats. With a teacher also `agreement`:
        rows on which both prefer the same token; `teacher_mass`: of the teacher's probability, in the student's top
        10 (from a cached teacher a lower bound: of the tokens it kept; without it where the cache is of another
        temperature than 1). With a teacher that gives whole distributions also `teacher_entropy`, nats, and
        `forward_kl`, nats. All at temperature 1.
    """
    sums: dict[str, float] = {}
    for start in range(0, len(labels), _BLOCK):
        block = slice(start, start + _BLOCK)
        log_q = student.rows(block).logits().float().log_softmax(-1)
        found = _of_student(log_q, labels[block])
        if targets is not None:
            found |= _of_teacher(log_q, targets, block)
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def _of_student(log_q: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return {
        "nll": -log_q.gather(-1, labels.unsqueeze(-1)).sum(),
        "student_entropy": entropy(log_q).sum(),
    }


def _of_teacher(log_q: Tensor, targets: Targets, block: slice) -> dict[str, Tensor]:
    top = log_q.topk(min(STUDENT_TOP, log_q.shape[-1]), -1).indices
    if isinstance(targets, SparseTargets):
        ids, log_p = targets.ids[block], targets.log_probs[block].float()
        best = ids.gather(-1, log_p.masked_fill(ids < 0, -torch.inf).argmax(-1, keepdim=True)).squeeze(-1)
        found = {"agreement": (best == top[:, 0]).sum()}
        if targets.temperature == 1:
            inside = (ids.unsqueeze(-1) == top.unsqueeze(-2)).any(-1)
            found["teacher_mass"] = (log_p.exp() * inside).sum()
        return found
    log_p = dense_logits(targets, block, log_q.shape[-1]).float().log_softmax(-1)
    return {
        "agreement": (log_p.argmax(-1) == top[:, 0]).sum(),
        "teacher_mass": log_p.exp().gather(-1, top).sum(),
        "teacher_entropy": entropy(log_p).sum(),
        "forward_kl": kl(log_p, log_q).sum(),
    }


def entropy(logs: Tensor) -> Tensor:
    """Of each row of log-probabilities (N, V), nats."""
    return -torch.special.xlogy(logs.exp(), logs.exp()).sum(-1)


def kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of each row of log-probabilities (N, V), nats; infinite where only `second` rules out."""
    each = nn.functional.kl_div(second, first, log_target=True, reduction="none")
    return each.masked_fill(first == -torch.inf, 0.0).sum(-1)  # what `first` rules out is worth 0; NaN stays NaN


def rows_of_targets(targets: Targets, index: Tensor) -> Targets:
    """Some rows of targets."""
    present = {field.name: getattr(targets, field.name) for field in fields(targets)}
    changes = {name: present[name][index] for name in _PER_ROW if present.get(name) is not None}
    return replace(targets, **changes)
