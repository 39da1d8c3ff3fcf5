# pyright: basic, reportArgumentType=false, reportOperatorIssue=false
# ruff: noqa: D403
"""Kernel 1: the largest logit of each row, and the log of the sum of the exponentials of the rest relative to it."""

from __future__ import annotations

import triton
import triton.language as tl

from abkd.losses.triton._formulas import log1p


@triton.jit
def statistics_kernel(logits, row_stride, largest, log, temperature, classes, BLOCK: tl.constexpr):
    """logits (R, V) -> largest (R,), log (R,) = log sum exp((z - largest) / T)."""
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * row_stride
    columns = tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    bad = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, classes, BLOCK):
        at = first + columns
        z = tl.load(start + at, mask=at < classes, other=float("-inf")).to(tl.float32)
        bad += tl.where(z != z, 1.0, 0.0)  # a maximum may drop NaN
        top = tl.maximum(top, z)
    most = tl.max(top, 0)
    most = tl.where(tl.sum(bad, 0) > 0, float("nan"), most)
    others = tl.zeros((BLOCK,), tl.float32)
    ties = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, classes, BLOCK):
        at = first + columns
        z = tl.load(start + at, mask=at < classes, other=float("-inf")).to(tl.float32)
        shifted = (z - most) / temperature
        others += tl.where(shifted < 0, tl.exp(shifted), 0.0)
        ties += tl.where((shifted < 0) | (at >= classes), 0.0, 1.0)
    tl.store(largest + row, most)
    tl.store(log + row, log1p(tl.sum(others, 0) + (tl.sum(ties, 0) - 1.0)))
