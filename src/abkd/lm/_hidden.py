"""Hidden states and the head that reads them: what a loss needs of a causal language model, without its logits.

Legend: B batch, S sequence, H hidden size, V vocabulary, N the positions that count.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from abkd.losses._whole import whole

_MULTIPLIERS = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
_CAP = "final_logit_softcapping"


@dataclass(frozen=True)
class Predictions:
    """What a model predicts at some positions: hidden states and the head that turns them into logits, or logits.

    Attributes:
        states: (..., H), or logits (..., V) where `weight` is None.
        weight: the head (V, H), or None.
        bias: the head's (V,), or None.
        scale: multiplies `states @ weight.T + bias`.
        softcap: then caps it, `softcap * tanh(z / softcap)`; None does not.
        classes: only the first so many are real; None for all.
    """

    states: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    classes: int | None = None

    def rows(self, index: Any) -> Predictions:
        """Those at an index into the leading axes: a boolean mask, row numbers, or a slice."""
        return replace(self, states=self.states[index])

    def of_classes(self, size: int) -> Predictions:
        """Only the first `size` classes."""
        return replace(self, classes=size)

    def detach(self) -> Predictions:
        """The same without gradients."""
        parts = {name: getattr(self, name) for name in ("states", "weight", "bias")}
        return replace(self, **{name: None if part is None else part.detach() for name, part in parts.items()})

    def logits(self) -> Tensor:
        """(..., V), in the precision of the states."""
        if self.weight is None:
            return self.states[..., : self.classes]
        kind = self.states.dtype
        bias = None if self.bias is None else self.bias[: self.classes].to(kind)
        z = nn.functional.linear(self.states, self.weight[: self.classes].to(kind), bias) * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)


def has_nan(*values: Any) -> bool:
    """Whether one of the tensors among these holds NaN or plus infinity. (Minus infinity rules a class out.)"""
    tensors = [value for value in values if isinstance(value, Tensor)]
    return any(bool((tensor.isnan() | (tensor == torch.inf)).any()) for tensor in tensors)


UseHead = Callable[[Predictions], Any]
"""Called inside a model's forward with its predictions (B, S, ...); what it returns the forward returns."""


def found_at(found: Predictions, keep: Tensor) -> Predictions:
    """The rows of `found` (B, S, ...) that predict the tokens marked in `keep` (B, S - 1)."""
    return found.rows((slice(None), slice(None, -1))).rows(keep.to(found.states.device))


def base_of(model: Any) -> Any:
    """The transformers model inside a PEFT one; any other as it is."""
    inner = getattr(model, "get_base_model", None)
    return model if inner is None else inner()


def add_head_call(model: Any) -> str | None:
    """Teach a causal language model to answer `model(..., use_head=f)` with `f(Predictions)`.

    `f` runs inside the model's forward: that is where FSDP and DeepSpeed have the head's weights whole and where
    the hooks of a wrapped model have fired. Without `use_head` the forward is what it was. Calling this twice does
    nothing more.

    Args:
        model: a transformers causal language model (the base model of a PEFT one).

    Returns:
        None where hidden states and head are used; else why logits are used instead.
    """
    present = model.forward
    if isinstance(present, _HeadForward):
        return present.reason
    how, reason = _how_logits_come(model)
    model.forward = _HeadForward(model, present, how, reason)
    return reason


def call_with_head(model: Any, inputs: Mapping[str, Any], use_head: UseHead) -> Any:
    """Run a model that `add_head_call` has seen (or something that wraps it) and `use_head` inside it."""
    return model(**inputs, use_head=use_head)


class _HeadForward:
    """A model's forward that can hand out hidden states and head. An object, so that a copied model copies it."""

    def __init__(self, model: Any, original: Callable[..., Any], how: _Adjustment, reason: str | None) -> None:
        self.model = model
        self.original = original
        self.how = how
        self.reason = reason
        parameters = list(inspect.signature(type(model).forward).parameters.values())[1:]
        self.__signature__ = inspect.Signature(parameters)

    def __call__(self, *args: Any, use_head: UseHead | None = None, **inputs: Any) -> Any:
        if use_head is None:
            return self.original(*args, **inputs)
        inputs["use_cache"] = False
        if self.reason is not None:
            return use_head(Predictions(self.original(*args, **inputs).logits))
        hidden = self.model.base_model(*args, **inputs).last_hidden_state
        head = self.model.get_output_embeddings()
        hidden = hidden.to(head.weight.device)
        weight, bias = whole(head.weight), whole(head.bias)
        with _gathered(head):
            return use_head(Predictions(hidden, weight, bias, *self.how))


_Adjustment = tuple[float, float | None]


def _how_logits_come(model: Any) -> tuple[_Adjustment, str | None]:
    """Scale and softcap with which the logits are head times hidden states; or the reason why they are not."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return (1.0, None), f"its head is a {type(head).__name__}, not a linear layer"
    if model.base_model is model:
        return (1.0, None), "it does not say which part gives the hidden states"
    candidates = _adjustments(model.config.get_text_config())
    if head.weight.is_meta or head.weight.numel() == 0:  # spread over ranks: nothing can be tried
        plain = candidates == [(1.0, None)]
        return (1.0, None), None if plain else "its logits are rescaled, which could not be checked"
    hidden, logits = _probe(model)
    if has_nan(logits):
        return (1.0, None), "they are not finite: its weights hold NaN or infinity, or its precision overflows"
    for scale, cap in candidates:
        ours = Predictions(hidden.to(head.weight.device), head.weight, head.bias, scale, cap).logits()
        size = logits.abs().max().clamp(min=1e-6)
        if ours.shape == logits.shape and bool((ours - logits).abs().max() <= 1e-2 * size):
            return (scale, cap), None
    return (1.0, None), "they are more than its head times its last hidden states"


def _adjustments(config: Any) -> list[_Adjustment]:
    """Scales and softcaps that a model's config speaks of, in the order in which they are tried."""
    scales: list[float] = []
    for name in _MULTIPLIERS:
        value = getattr(config, name, None)
        if isinstance(value, int | float) and value not in (0, 1):
            scales += [1 / value, value] if name == "logits_scaling" else [value]
    cap = getattr(config, _CAP, None)
    return [(float(scale), cap) for scale in [*scales, 1.0]]


@torch.no_grad()
def _probe(model: Any) -> tuple[Tensor, Tensor]:
    """Hidden states and logits on four tokens."""
    tokens = torch.arange(4, device=model.device).unsqueeze(0)
    training = model.training
    model.eval()
    try:
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        return hidden, model(input_ids=tokens, use_cache=False).logits
    finally:
        model.train(training)


def _gathered(head: nn.Linear) -> AbstractContextManager[Any]:
    """TRL's context that gathers a head which DeepSpeed ZeRO-3 has spread, else an empty one."""
    if not hasattr(head.weight, "ds_status"):
        return nullcontext()
    from trl.trainer.utils import maybe_gather_lm_head_ctx

    parts: list[Any] = [head.weight, head.bias]
    return maybe_gather_lm_head_ctx(*parts)


def drop_fused_head(model: Any, before: Any) -> None:
    """Take back TRL's own patch of the forward: this trainer has its own, which a copied model takes along."""
    if before is not None:
        model.forward = before
    elif not hasattr(model, "_hf_hook"):
        model.__dict__.pop("forward", None)
