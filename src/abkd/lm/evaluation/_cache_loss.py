"""What a teacher cache loses against the live teacher, for a given student and divergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from abkd.divergences import Divergence
from abkd.errors import InputError
from abkd.lm._batch import IGNORED, counted
from abkd.lm._hidden import Predictions, add_head_call, call_with_head, found_at
from abkd.lm._objective import head_loss
from abkd.losses import DenseTargets, Targets
from abkd.losses._sparse import Tail
from abkd.teachers import LmCache
from abkd.teachers._token_rows import check_tokenised, padded, row_columns, row_of


@dataclass(frozen=True)
class CacheLoss:
    """A divergence from a cached teacher beside that from the live one.

    Attributes:
        live: mean over tokens, in nats.
        cached: the same from the cache.
        gradient_error: length of the difference of both gradients in the student's hidden states, over all tokens,
            divided by the length of the live one.
        tokens: how many.
    """

    live: float
    cached: float
    gradient_error: float
    tokens: int

    @property
    def bias(self) -> float:
        """(cached - live) / live; negative where the cache hides part of the divergence."""
        return (self.cached - self.live) / self.live if self.live else 0.0


def cache_loss(
    cache: LmCache,
    student: Any,
    teacher: Any,
    dataset: Any,
    divergence: Divergence,
    *,
    tail: Tail | None = None,
    batch_size: int = 4,
) -> CacheLoss:
    """Compare a cache with its live teacher.

    Args:
        cache: built with this teacher for (at least) these rows.
        student: a causal language model whose head can be read apart; put in eval mode.
        teacher: the cache's.
        dataset: tokenised rows.
        divergence: any of the family.
        tail: of `linear_divergence_loss`; None is its own choice.
        batch_size: rows at a time.

    Raises:
        InputError: rows or a teacher that are not the cache's, or a student with another kind of head.
    """
    return cache_losses(cache, student, teacher, dataset, (divergence,), tail=tail, batch_size=batch_size)[0]


def cache_losses(
    cache: LmCache,
    student: Any,
    teacher: Any,
    dataset: Any,
    divergences: Sequence[Divergence],
    *,
    tail: Tail | None = None,
    batch_size: int = 4,
) -> list[CacheLoss]:
    """`cache_loss` for several divergences, each model run once."""
    check_tokenised(dataset, "rows to measure a cache on")
    cache.check_teacher(teacher)
    add_head_call(student)
    student.eval()
    sums = [_Sums() for _ in divergences]
    rows = dataset.select_columns(row_columns(dataset))
    for start in range(0, len(rows), batch_size):
        part = rows.select(range(start, min(start + batch_size, len(rows))))
        batch = _batch([row_of(example) for example in part], student.device)
        if bool(counted(batch).any()):
            _compare(sums, cache, student, teacher, batch, divergences, {} if tail is None else {"tail": tail})
    if any(one.tokens == 0 for one in sums):
        raise InputError("no token of this data set counts (all labels are -100), so there is nothing to compare")
    return [one.result() for one in sums]


@dataclass
class _Sums:
    """Of one divergence, over batches."""

    live: float = 0.0
    cached: float = 0.0
    difference: float = 0.0
    length: float = 0.0
    tokens: int = 0

    def add(self, live: tuple[float, Tensor], cached: tuple[float, Tensor]) -> None:
        self.live += live[0]
        self.cached += cached[0]
        self.difference += float((live[1] - cached[1]).double().square().sum())
        self.length += float(live[1].double().square().sum())
        self.tokens += len(live[1])

    def result(self) -> CacheLoss:
        error = (self.difference / self.length) ** 0.5 if self.length else 0.0
        return CacheLoss(self.live / self.tokens, self.cached / self.tokens, error, self.tokens)


def _compare(
    sums: list[_Sums],
    cache: LmCache,
    student: Any,
    teacher: Any,
    batch: dict[str, Tensor],
    divergences: Sequence[Divergence],
    options: dict[str, Any],
) -> None:
    """Add what a batch gives, from the live teacher and from the cache."""
    keep = counted(batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    place = teacher.device
    with torch.no_grad():
        logits = teacher(**{name: value.to(place) for name, value in inputs.items()}, use_cache=False).logits
    dense = DenseTargets(logits[:, :-1][keep.to(place), : cache.vocabulary].float().to(student.device))
    sparse = cache.targets_for(batch)

    def use_head(found: Predictions) -> None:
        rows = found_at(found, keep).of_classes(cache.vocabulary).detach()
        for one, divergence in zip(sums, divergences, strict=True):
            live = _value_and_gradient(rows, dense, divergence, cache.temperature, {})
            one.add(live, _value_and_gradient(rows, sparse, divergence, cache.temperature, options))

    with torch.no_grad():
        call_with_head(student, inputs, use_head)


def _value_and_gradient(
    rows: Predictions, targets: Targets, divergence: Divergence, temperature: float, options: dict[str, Any]
) -> tuple[float, Tensor]:
    """The sum over rows, and its gradient in the hidden states (N, H)."""
    states = rows.states.clone().requires_grad_(True)
    with torch.enable_grad():
        at = replace(rows, states=states)
        value = head_loss(at, targets, divergence, reduction="sum", temperature=temperature, **options)
        (gradient,) = torch.autograd.grad(value, states)
    return float(value.detach()), gradient


def _batch(rows: list[Any], device: torch.device) -> dict[str, Tensor]:
    ids, mask, counts = padded(rows)
    labels = torch.full_like(ids, IGNORED)
    labels[:, 1:][counts] = ids[:, 1:][counts]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: value.to(device) for name, value in batch.items()}
