"""A value whose gradients were computed along with it, put into autograd's graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abkd.errors import InputError

_SLICE = 8192
"""Rows of a gradient that are scaled and rounded in one pass."""


def attached(
    value: Tensor,
    inputs: tuple[Tensor | None, ...],
    gradients: tuple[Tensor | None, ...],
    unit: float | Tensor = 1.0,
) -> Tensor:
    """`value`, differentiable once in those `inputs` that have a gradient.

    Args:
        value: a scalar, or (...) with gradients (..., V).
        inputs: the tensors that the value was computed from.
        gradients: of `value / unit` in each input (of the scalar, or of each of its elements), or None. In the dtype of
            their input, or in a wider one that they are rounded from only in the backward pass.
        unit: what they are multiplied by there, together with the incoming gradient.
    """
    return _Attached.apply(value, unit, len(inputs), *inputs, *gradients)  # pyright: ignore


def scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """`factor * gradient`, multiplied in the factor's dtype and rounded to this one. The factor is () or (..., 1)."""
    if factor.dim() == 0 and factor.device.type == "cpu" and not factor.requires_grad and float(factor) == 1.0:
        return gradient.to(dtype)  # a loss's own backward(): no second copy of the head's gradient
    if factor.dim() or gradient.dtype == dtype == factor.dtype:
        return (gradient * factor).to(dtype)
    result = torch.empty_like(gradient, dtype=dtype)
    for start in range(0, gradient.shape[0], _SLICE):
        part = slice(start, start + _SLICE)
        result[part] = gradient[part].to(factor.dtype) * factor
    return result


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
            "derivatives sum divergence.f of torch.log_softmax of the logits, which autograd differentiates (to 0, "
            "though, where student and teacher agree exactly)"
        )


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, value: Tensor, unit: float | Tensor, count: int, *tensors: Tensor | None
    ) -> Tensor:
        ctx.unit, ctx.count = unit, count
        ctx.save_for_backward(*tensors)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        tensors = ctx.saved_tensors
        sources, gradients = tensors[: ctx.count], tensors[ctx.count :]
        factor = ctx.unit * (outer[0] if outer[0].dim() == 0 else outer[0].unsqueeze(-1))
        shares = (
            None if gradient is None else once(scaled(gradient, factor, source.dtype), source)
            for source, gradient in zip(sources, gradients, strict=True)
        )
        return None, None, None, *shares, *(None for _ in gradients)
