"""Which entries of a teacher's distributions are kept, and asking the teacher for them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from abkd.errors import InputError
from abkd.losses import SparseTargets
from abkd.teachers._lm_cache_codec import Form
from abkd.teachers._token_rows import Row, padded

DEFAULT_MIN_PROBABILITY = 0.0015
DEFAULT_MIN_ENTRIES = 32
_BLOCK = 512


@dataclass(frozen=True)
class Rule:
    """Which tokens of each distribution are kept: the most probable ones that pass.

    Attributes:
        top_k: at most so many; None is no limit.
        tail_mass: stop when the others have less than this mass together.
        min_probability: none below this probability. Of all rules with the same number of entries on average, a
            threshold on the probability leaves the least mass out.
        min_entries: but at least so many, whatever the other two say: what a teacher is sure of says little else
            about where a student's mass should not be.
        temperature: softens the distributions first.
    """

    top_k: int | None = None
    tail_mass: float | None = None
    min_probability: float | None = None
    min_entries: int = 1
    temperature: float = 1.0

    @staticmethod
    def checked(
        top_k: int | None = None,
        tail_mass: float | None = None,
        min_probability: float | None = None,
        min_entries: int | None = None,
        temperature: float = 1.0,
    ) -> Rule:
        """A rule, with the defaults where nothing is given.

        Raises:
            InputError: a value out of range.
        """
        for name, count in (("top_k", top_k), ("min_entries", min_entries)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise InputError(f"{name}: expected a number of entries of at least 1, got {count!r}")
        for name, value in (("tail_mass", tail_mass), ("min_probability", min_probability)):
            if value is not None and not 0 < value < 1:
                raise InputError(f"{name}: expected a probability between 0 and 1, got {value!r}")
        if not (temperature > 0 and math.isfinite(temperature)):
            raise InputError(f"temperature: expected a finite number above 0, got {temperature!r}")
        if top_k is None and tail_mass is None and min_probability is None:
            min_probability = DEFAULT_MIN_PROBABILITY
            min_entries = DEFAULT_MIN_ENTRIES if min_entries is None else min_entries
        if top_k is not None and min_entries is not None and min_entries > top_k:
            raise InputError(f"min_entries: expected at most top_k, {top_k}, got {min_entries}")
        return Rule(top_k, tail_mass, min_probability, min_entries or 1, float(temperature))

    def most(self, vocabulary: int) -> int:
        """The most entries that a position can have."""
        limits = [vocabulary]
        if self.top_k is not None:
            limits.append(self.top_k)
        if self.min_probability is not None:
            limits.append(max(int(1 / self.min_probability), self.min_entries))
        return min(limits)

    def form(self, vocabulary: int, bits: int, power: float | None) -> Form:
        """What a cache of this rule looks like on disk."""
        dense = self.tail_mass is None and self.min_probability is None and self.most(vocabulary) == vocabulary
        return Form(vocabulary, self.most(vocabulary), bits, power, dense)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def select(logits: Tensor, rule: Rule, form: Form) -> SparseTargets:
    """Sparse targets (N, K) of a teacher's logits (N, V or more); entries left out have id -1."""
    wide = logits[:, : form.vocabulary].float() / rule.temperature
    logs = torch.log_softmax(wide, -1)
    top, ids = logs.topk(form.most, dim=-1)
    keep = torch.ones_like(ids, dtype=torch.bool)
    if rule.min_probability is not None:
        keep &= top >= math.log(rule.min_probability)
    if rule.tail_mass is not None:
        mass = top.double().exp().cumsum(-1)
        before = torch.cat([torch.zeros_like(mass[:, :1]), mass[:, :-1]], -1)
        keep &= before <= 1 - rule.tail_mass
    keep[:, : rule.min_entries] = True
    width = int(keep.sum(-1).max())
    top, ids, keep = top[:, :width], ids[:, :width], keep[:, :width]
    tail = logs.scatter(-1, torch.where(keep, ids, ids[:, :1]), -torch.inf)
    powered = None if form.power is None else torch.logsumexp(form.power * tail, -1)
    return SparseTargets(
        ids.masked_fill(~keep, -1),
        top.masked_fill(~keep, -torch.inf),
        torch.logsumexp(tail, -1),
        powered,
        form.power,
        rule.temperature,
    )


class Asker:
    """Runs a causal language model over rows and keeps what a rule keeps.

    Args:
        model: frozen, in eval mode.
        rule: which entries.
        form: what the cache looks like.
    """

    def __init__(self, model: Any, rule: Rule, form: Form) -> None:
        self.model = model
        self.rule = rule
        self.form = form
        self.device = next(model.parameters()).device
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.no_grad()
    def ask(self, rows: Sequence[Row]) -> list[SparseTargets]:
        """Targets of each row's counted positions, the rows run as one batch."""
        ids, mask, _ = padded(rows)
        first = min((int(row.counted.argmax()) for row in rows if row.counted.any()), default=0)
        options: dict[str, Any] = {"logits_to_keep": ids.shape[1] - first} if self._keeps else {}
        logits: Tensor = self.model(
            input_ids=ids.to(self.device), attention_mask=mask.to(self.device), use_cache=False, **options
        ).logits
        skipped = first if self._keeps else 0
        return [self._targets(logits[line], row, skipped) for line, row in enumerate(rows)]

    def _targets(self, logits: Tensor, row: Row, skipped: int) -> SparseTargets:
        positions = torch.from_numpy(row.counted.nonzero()[0] - skipped).to(logits.device)
        if len(positions) == 0:
            empty = logits.new_zeros((0, 1), dtype=torch.float32)
            powered = None if self.form.power is None else empty[:, 0]
            return SparseTargets(empty.long(), empty, empty[:, 0], powered, self.form.power, self.rule.temperature)
        parts = [select(logits[part], self.rule, self.form) for part in positions.split(_BLOCK)]
        return _joined(parts)


def _joined(parts: Sequence[SparseTargets]) -> SparseTargets:
    """Targets one after the other, padded to one width with entries left out."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.ids.shape[1] for part in parts)

    def wide(values: Tensor, fill: float) -> Tensor:
        return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=fill)

    powers = [part.log_power_tail for part in parts if part.log_power_tail is not None]
    return SparseTargets(
        torch.cat([wide(part.ids, -1) for part in parts]),
        torch.cat([wide(part.log_probs, -torch.inf) for part in parts]),
        torch.cat([part.log_tail for part in parts]),
        torch.cat(powers) if powers else None,
        parts[0].power,
        parts[0].temperature,
    )
