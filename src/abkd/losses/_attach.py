"""A value whose gradients were computed along with it, put into autograd's graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def attached(value: Tensor, inputs: tuple[Tensor | None, ...], gradients: tuple[Tensor | None, ...]) -> Tensor:
    """`value`, differentiable in those `inputs` that have a gradient.

    Args:
        value: a scalar, or (...) with gradients (..., V).
        inputs: the tensors that the value was computed from.
        gradients: of the value in each input (of the scalar, or of each of its elements), or None.
    """
    return _Attached.apply(value, len(inputs), *inputs, *gradients)  # pyright: ignore


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, value: Tensor, count: int, *tensors: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients: tuple[Tensor | None, ...] = ctx.saved_tensors
        factor = outer[0] if outer[0].dim() == 0 else outer[0].unsqueeze(-1)
        if factor.device.type == "cpu" and factor.dim() == 0 and float(factor) == 1.0:
            scaled = gradients  # a loss's own backward(): no second copy of the head's gradient
        else:
            scaled = tuple(None if gradient is None else gradient * factor.to(gradient.dtype) for gradient in gradients)
        return None, None, *scaled, *(None for _ in gradients)
