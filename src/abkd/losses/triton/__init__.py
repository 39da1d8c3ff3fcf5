"""The pointwise part of the fused losses as Triton kernels, for CUDA and ROCm devices.

One kernel a file: the statistics of the logits, the values with `sum u`, and the gradient, in place. Each program walks
over one row. `_launch` is imported only when asked for and there, so that a machine without Triton never sees it.
"""

from __future__ import annotations

import importlib.util
import os

import torch

from abkd.divergences import (
    AlphaBeta,
    Divergence,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
)

__all__ = ["KERNELS", "missing_for_triton"]

KERNELS: tuple[type[Divergence], ...] = (
    AlphaBeta,
    ForwardKL,
    ReverseKL,
    JensenShannon,
    SkewForwardKL,
    SkewReverseKL,
)
"""The members that have a kernel."""


def missing_for_triton(device: torch.device, divergence: Divergence | None) -> str | None:
    """Why the kernels cannot serve this divergence on this device, in words; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is missing"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it needs a CUDA device, and the tensors are on {device.type!r}"
    if divergence is not None and not isinstance(divergence, KERNELS):
        names = ", ".join(kind.__name__ for kind in KERNELS)
        return f"there is no kernel for {divergence.name}, only for {names}"
    return None
