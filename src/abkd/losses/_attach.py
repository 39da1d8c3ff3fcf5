"""A value whose gradients were computed along with it, put into autograd's graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abkd.errors import InputError


def attached(value: Tensor, inputs: tuple[Tensor | None, ...], gradients: tuple[Tensor | None, ...]) -> Tensor:
    """`value`, differentiable once in those `inputs` that have a gradient.

    Args:
        value: a scalar, or (...) with gradients (..., V).
        inputs: the tensors that the value was computed from.
        gradients: of the value in each input (of the scalar, or of each of its elements), or None.
    """
    return _Attached.apply(value, len(inputs), *inputs, *gradients)  # pyright: ignore


def once(gradient: Tensor, source: Tensor) -> Tensor:
    """`gradient`, with the knowledge that it depends on `source` in a way that is not differentiated again.

    Only a gradient that was asked for with a graph needs it: without, it would pass for a constant, and a second
    derivative would come out wrong in silence.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return gradient
    return _Once.apply(gradient, source)  # pyright: ignore


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, source: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: nothing is computed backwards."""

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        raise InputError(
            "the loss is differentiable once: its gradient comes in closed form, without a graph. For second "
            "derivatives sum divergence.f of torch.log_softmax of the logits, which autograd differentiates"
        )


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, value: Tensor, count: int, *tensors: Tensor | None
    ) -> Tensor:
        ctx.count = count
        ctx.save_for_backward(*tensors)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        tensors = ctx.saved_tensors
        sources, gradients = tensors[: ctx.count], tensors[ctx.count :]
        factor = outer[0] if outer[0].dim() == 0 else outer[0].unsqueeze(-1)
        # A loss's own backward(): no second copy of the head's gradient.
        plain = factor.device.type == "cpu" and factor.dim() == 0 and not factor.requires_grad and float(factor) == 1.0
        scaled = (
            None if gradient is None else once(gradient if plain else gradient * factor.to(gradient.dtype), source)
            for source, gradient in zip(sources, gradients, strict=True)
        )
        return None, None, *scaled, *(None for _ in gradients)
