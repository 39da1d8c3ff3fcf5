"""What a teacher cache loses against the live teacher, for a given student and divergence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from abkd.divergences import Divergence
from abkd.errors import InputError
from abkd.lm._hidden import Predictions, add_head_call, call_with_head
from abkd.lm._objective import head_loss
from abkd.lm._teacher import found_at
from abkd.losses import DenseTargets
from abkd.teachers import LmCache
from abkd.teachers._lm_cache_rows import check_tokenised, row_columns, row_of


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
    tail: Any = None,
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
    check_tokenised(dataset)
    cache.check_teacher(teacher)
    add_head_call(student)
    student.eval()
    live = cached = difference = length = 0.0
    tokens = 0
    names = row_columns(dataset)
    for start in range(0, len(dataset), batch_size):
        part = dataset.select_columns(names).select(range(start, min(start + batch_size, len(dataset))))
        batch = _batch([row_of(example) for example in part], student.device)
        count = int((batch["labels"][:, 1:] != -100).sum())
        if count == 0:
            continue
        both = _both(cache, student, teacher, batch, divergence, tail)
        (one, grad), (other, other_grad) = both
        live, cached, tokens = live + one, cached + other, tokens + count
        difference += float((grad - other_grad).double().square().sum())
        length += float(grad.double().square().sum())
    if tokens == 0:
        raise InputError("no token of this data set counts (all labels are -100), so there is nothing to compare")
    return CacheLoss(live / tokens, cached / tokens, (difference / length) ** 0.5 if length else 0.0, tokens)


def _both(
    cache: LmCache, student: Any, teacher: Any, batch: dict[str, Tensor], divergence: Divergence, tail: Any
) -> list[tuple[float, Tensor]]:
    """Sum and gradient from the live teacher, and from the cache."""
    keep = batch["labels"][:, 1:] != -100
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        place = teacher.device
        logits = teacher(**{name: value.to(place) for name, value in inputs.items()}, use_cache=False).logits
    dense = DenseTargets(logits[:, :-1][keep.to(place), : cache.vocabulary].float().to(student.device))
    sparse = cache.targets_for(batch)

    def use_head(found: Predictions) -> list[tuple[float, Tensor]]:
        rows = found_at(found, keep).of_classes(cache.vocabulary).detach()
        sums: list[tuple[float, Tensor]] = []
        for targets, options in ((dense, {}), (sparse, {} if tail is None else {"tail": tail})):
            states = rows.states.clone().requires_grad_(True)
            at = replace(rows, states=states)
            with torch.enable_grad():
                value = head_loss(at, targets, divergence, reduction="sum", temperature=cache.temperature, **options)
                (gradient,) = torch.autograd.grad(value, states)
            sums.append((float(value.detach()), gradient))
        return sums

    with torch.no_grad():
        return call_with_head(student, inputs, use_head)


def _batch(rows: list[Any], device: torch.device) -> dict[str, Tensor]:
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": torch.zeros_like(ids), "labels": torch.full_like(ids, -100)}
    for line, row in enumerate(rows):
        tokens = torch.from_numpy(row.ids).long()
        batch["input_ids"][line, : len(tokens)] = tokens
        batch["attention_mask"][line, : len(tokens)] = 1
        batch["labels"][line, 1 : len(tokens)][torch.from_numpy(row.counted)] = tokens[1:][
            torch.from_numpy(row.counted)
        ]
    return {name: value.to(device) for name, value in batch.items()}
