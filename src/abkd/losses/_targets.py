"""What a teacher gives: hidden states and a head, logits, or the most probable tokens of each distribution.

Shapes: (...) any leading axes, the same as the student's; H the teacher's width, V its vocabulary, K entries a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from abkd.errors import InputError
from abkd.losses import _checks
from abkd.losses._checks import describe_token


@dataclass(frozen=True, eq=False)
class HiddenTargets:
    """A teacher's last hidden states and its head; its logits are never held for more than a block of tokens.

    Args:
        hidden: (..., H), of the teacher's own width.
        weight: (V, H).
        bias: (V,).
        logit_scale: multiplies the logits.
        softcap: then caps them, `softcap * tanh(logits / softcap)`, as Gemma's head does.

    Raises:
        InputError: no floating tensors, or shapes that do not fit.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    logit_scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        check_head("teacher", self.hidden, self.weight, self.bias)
        check_adjustment("teacher", self.logit_scale, self.softcap)

    @property
    def shape(self) -> torch.Size:
        """The leading axes."""
        return self.hidden.shape[:-1]

    def flat(self) -> HiddenTargets:
        """With one leading axis, (N, ...)."""
        return replace(self, hidden=self.hidden.reshape(-1, self.hidden.shape[-1]))

    @property
    def vocabulary(self) -> int:
        """The number of classes, padding included."""
        return self.weight.shape[0]


@dataclass(frozen=True, eq=False)
class DenseTargets:
    """A teacher's logits.

    Args:
        logits: (..., V); -inf rules a class out.

    Raises:
        InputError: no floating tensor.
    """

    logits: Tensor

    def __post_init__(self) -> None:
        _checks.check_floating("DenseTargets.logits", self.logits)

    @property
    def shape(self) -> torch.Size:
        """The leading axes."""
        return self.logits.shape[:-1]

    def flat(self) -> DenseTargets:
        """With one leading axis, (N, V)."""
        return replace(self, logits=self.logits.reshape(-1, self.vocabulary))

    @property
    def vocabulary(self) -> int:
        """The number of classes, padding included."""
        return self.logits.shape[-1]


@dataclass(frozen=True, eq=False)
class SparseTargets:
    """The most probable tokens of a teacher's distributions, and the mass of all others.

    Args:
        ids: (..., K) integers, each once; -1 leaves an entry out, for a K that differs from token to token. The first
            one of a token is always there.
        log_probs: (..., K), natural, not renormalised: with the tail they make up 1. In any order that is one: most
            probable first, or by id.
        log_tail: (...), the log of the mass of all other tokens; -inf where there is none.
        log_power_tail: (...), `log sum_tail p^power`, for the treatment "power-bucket".
        power: of that sum, the alpha + beta that it serves.
        temperature: that the distributions were made at; the loss has to use the same.

    Raises:
        InputError: tensors of the wrong kind, or shapes that do not fit. What the tensors hold is looked at when a
            loss is computed: ids outside the vocabulary or repeated, entries in no order, NaN, probabilities that
            do not make up 1.
    """

    ids: Tensor
    log_probs: Tensor
    log_tail: Tensor
    log_power_tail: Tensor | None = None
    power: float | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.ids, Tensor) or self.ids.is_floating_point() or self.ids.dtype == torch.bool:  # pyright: ignore
            raise InputError(f"SparseTargets.ids: expected an integer tensor, got {_kind(self.ids)}")
        for name in ("log_probs", "log_tail", "log_power_tail"):
            value = getattr(self, name)
            if value is None and name == "log_power_tail":
                continue
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise InputError(f"SparseTargets.{name}: expected a floating tensor, got {_kind(value)}")
        if self.ids.dim() == 0 or self.ids.shape[-1] == 0 or self.ids.shape != self.log_probs.shape:
            raise InputError(
                f"SparseTargets: expected ids and log_probs of one shape (..., K) with K of at least 1, got "
                f"{tuple(self.ids.shape)} and {tuple(self.log_probs.shape)}"
            )
        for name in ("log_tail", "log_power_tail"):
            value = getattr(self, name)
            if value is not None and value.shape != self.shape:
                raise InputError(
                    f"SparseTargets.{name}: expected shape {tuple(self.shape)}, one value for each token, got "
                    f"{tuple(value.shape)}"
                )
        if (self.power is None) != (self.log_power_tail is None):
            raise InputError("SparseTargets: power and log_power_tail come together; give both or neither")
        if self.power is not None:
            _checks.check_positive("SparseTargets.power", self.power)
        _checks.check_positive("SparseTargets.temperature", self.temperature)

    @property
    def shape(self) -> torch.Size:
        """The leading axes."""
        return self.ids.shape[:-1]

    def flat(self) -> SparseTargets:
        """With one leading axis, (N, ...)."""
        powered = self.log_power_tail
        return replace(
            self,
            ids=self.ids.reshape(-1, self.ids.shape[-1]),
            log_probs=self.log_probs.reshape(-1, self.ids.shape[-1]),
            log_tail=self.log_tail.reshape(-1),
            log_power_tail=None if powered is None else powered.reshape(-1),
        )

    @staticmethod
    def from_logits(
        logits: Tensor,
        k: int | None = 64,
        *,
        tail_mass: float | None = None,
        power: float | None = None,
        temperature: float = 1.0,
    ) -> SparseTargets:
        """The sparse form of a teacher's logits.

        Args:
            logits: (..., V).
            k: the most entries a token; None for as many as `tail_mass` asks for.
            tail_mass: in (0, 1): each token keeps the fewest entries that leave at most this mass to the tail (and at
                most k). None: k entries for every token.
            power: also keep `log sum_tail p^power`.
            temperature: softens the distributions first.

        Raises:
            InputError: values out of range, or neither k nor tail_mass.
        """
        _checks.check_floating("logits", logits)
        vocabulary = logits.shape[-1]
        if k is None and tail_mass is None:
            raise InputError("SparseTargets.from_logits: give k, or tail_mass, or both")
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):  # pyright: ignore
            raise InputError(f"k: expected a number of entries of at least 1, got {k!r}")
        if tail_mass is not None and not 0 < tail_mass < 1:
            raise InputError(f"tail_mass: expected a mass in (0, 1), got {tail_mass!r}")
        z = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        logs = torch.log_softmax(z / _checks.check_positive("temperature", temperature), -1)
        top, ids = logs.topk(min(k or vocabulary, vocabulary), dim=-1)
        dropped = None
        if tail_mass is not None:
            mass = top.exp().cumsum(-1)
            dropped = torch.cat([torch.zeros_like(mass[..., :1]), mass[..., :-1]], -1) >= 1 - tail_mass
            width = max(1, int((~dropped).reshape(-1, dropped.shape[-1]).any(0).sum()))
            top, ids, dropped = top[..., :width], ids[..., :width], dropped[..., :width]
        kept = ids if dropped is None else ids.where(~dropped, ids[..., :1])
        tail = logs.scatter(-1, kept, -torch.inf)
        if dropped is not None:
            ids, top = ids.masked_fill(dropped, -1), top.masked_fill(dropped, -torch.inf)
        powered = None if power is None else torch.logsumexp(power * tail, -1)
        return SparseTargets(ids, top, torch.logsumexp(tail, -1), powered, power, temperature)


Targets = HiddenTargets | DenseTargets | SparseTargets


def check_head(who: str, hidden: Any, weight: Any, bias: Any) -> None:
    """Hidden states (..., H), a head (V, H) and its bias (V,) that fit together."""
    for name, value, dims in (("hidden", hidden, None), ("weight", weight, 2), ("bias", bias, 1)):
        if value is None and name == "bias":
            continue
        if not isinstance(value, Tensor):
            raise InputError(f"{who} {name}: expected a tensor, got {type(value).__name__}")
        if not value.is_floating_point():
            raise InputError(
                f"{who} {name}: expected a floating tensor, got dtype {value.dtype}; were token ids passed?"
            )
        if (dims is not None and value.dim() != dims) or value.dim() == 0:
            expected = {"hidden": "(..., H)", "weight": "(V, H)", "bias": "(V,)"}[name]
            raise InputError(f"{who} {name}: expected shape {expected}, got {tuple(value.shape)}")
    if hidden.shape[-1] != weight.shape[1]:
        raise InputError(
            f"{who} head: expected hidden states and weight of one width, got {hidden.shape[-1]} and {weight.shape[1]} "
            f"(hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)}); the weight is (V, H), as in nn.Linear"
        )
    if weight.shape[0] == 0:
        raise InputError(f"{who} weight: expected at least one class, got shape {tuple(weight.shape)}")
    if bias is not None and bias.shape[0] != weight.shape[0]:
        raise InputError(f"{who} bias: expected {weight.shape[0]} values, one for each class, got {bias.shape[0]}")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.device != hidden.device:
            raise InputError(f"{who} {name} is on {value.device}, hidden states on {hidden.device}; move one")


def check_adjustment(who: str, scale: Any, softcap: Any) -> None:
    """A finite logit scale other than 0, and a cap above 0 or None."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale == 0:
        raise InputError(f"{who} logit_scale: expected a finite number other than 0, got {scale!r}")
    if softcap is not None:
        _checks.check_positive(f"{who} softcap", softcap)


def check_sparse_values(targets: SparseTargets, counted: Tensor | None, vocabulary: int) -> None:
    """What sparse targets hold, with one look for all faults: a message that names the first of them."""
    ids, logs = targets.ids.long(), targets.log_probs.to(torch.promote_types(targets.log_probs.dtype, torch.float32))
    left_out = ids == -1
    sorted_ids = ids.masked_fill(left_out, vocabulary).sort(-1).values
    repeated = (sorted_ids[..., 1:] == sorted_ids[..., :-1]) & (sorted_ids[..., 1:] != vocabulary)
    by_id = ((ids[..., 1:] > ids[..., :-1]) | left_out[..., 1:]).all(-1)
    by_mass = ((logs[..., 1:] <= logs[..., :-1] + 1e-3) | left_out[..., 1:]).all(-1)
    mass = logs.masked_fill(left_out, -torch.inf).exp().sum(-1) + targets.log_tail.to(logs.dtype).exp()
    values_bad = (logs.isnan() | (logs > 1e-2)).masked_fill(left_out, False).any(-1)
    tail_bad = targets.log_tail.isnan() | (targets.log_tail > 1e-2)
    if targets.log_power_tail is not None:
        tail_bad = tail_bad | targets.log_power_tail.isnan() | (targets.log_power_tail == torch.inf)
    faults = {
        f"ids: expected values in 0..{vocabulary - 1} (or -1 for an entry that is left out)": (
            (ids < -1) | (ids >= vocabulary)
        ).any(-1),
        "ids: expected each id once, got a repeated one": repeated.any(-1),
        "ids: the first entry of a token may not be left out": left_out[..., 0],
        "log_probs: expected log-probabilities (at most 0, not NaN)": values_bad,
        "log_tail: expected the log of a mass between 0 and 1 (-inf for none), not NaN": tail_bad,
        "expected entries in order, most probable first (or by id)": ~(by_id | by_mass),
        "log_probs and log_tail: expected probabilities that make up 1 together; truncated or renormalised top-k "
        "log-probabilities are no targets, keep the tail's mass": ~((mass - 1).abs() < 0.02),
    }
    table = torch.stack([fault if counted is None else fault & counted for fault in faults.values()])
    if not bool(table.any()):
        return
    for message, fault in zip(faults, table, strict=True):
        if bool(fault.any()):
            where = fault.nonzero()[0].tolist()
            place = tuple(where)
            tail, total = float(targets.log_tail[place]), float(mass[place])
            raise InputError(
                f"SparseTargets.{message}; at {describe_token(where)}: ids {_some(ids[place])}, log_probs "
                f"{_some(logs[place])}, log_tail {tail:.4g}, total mass {total:.4g}"
            )


def _some(row: Tensor) -> str:
    shown = ", ".join(f"{value:.4g}" for value in row[:6].tolist())
    return f"[{shown}{', ...' if row.shape[0] > 6 else ''}]"


def _kind(value: Any) -> str:
    return f"dtype {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
