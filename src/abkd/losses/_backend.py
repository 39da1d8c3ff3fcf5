"""Which code computes the pointwise part of a fused loss, and why."""

from __future__ import annotations

import functools
import logging
import os
from typing import Any, Literal

import torch
from torch import Tensor

from abkd.divergences import Divergence
from abkd.errors import InputError
from abkd.losses import _checks
from abkd.losses._compiled import Rows, compiled_rows, missing_for_compiling
from abkd.losses._rows import eager_rows

Backend = Literal["auto", "eager", "compiled", "triton"]
BACKENDS: tuple[Backend, ...] = ("auto", "eager", "compiled", "triton")
VARIABLE = "ABKD_BACKEND"

_WORTH_COMPILING = 1 << 24
"""Logits in one call below which compiling (10 to 20 s, once a process) is not chosen on its own."""

_log = logging.getLogger("abkd")


def backend_for(
    requested: str | None,
    device: torch.device,
    tokens: int,
    classes: int,
    divergence: Divergence | None,
    plain: str | None = None,
) -> tuple[str, Rows]:
    """The name and the function of the backend, from the argument, else the environment variable, else by itself.

    `plain` says why this call can only run in plain operations, or is None. An argument that asks for something else is
    then refused; the environment variable, which speaks of all calls, gives way.

    Raises:
        InputError: an unknown name, or a backend that this call or this device lacks, with what is missing.
    """
    asked = requested if requested is not None else os.environ.get(VARIABLE, "auto")
    _checks.check_choice("backend" if requested is not None else f"environment variable {VARIABLE}", asked, BACKENDS)
    if plain and requested in ("compiled", "triton"):
        raise InputError(f"backend {requested!r} cannot be had here: {plain}; use 'eager', or leave it out")
    if plain or asked == "auto":
        name, reason = ("eager", plain) if plain else _choice(device, tokens * classes)
        _say(name, reason)
        return name, (_compiled_or_eager if name == "compiled" else eager_rows)
    if asked == "eager":
        return asked, eager_rows
    if asked == "compiled":
        missing = missing_for_compiling(device)
        if missing:
            raise InputError(f"backend 'compiled' cannot be had on {device.type!r}: {missing} is missing; use 'eager'")
        return asked, compiled_rows
    from abkd.losses.triton import missing_for_triton

    missing = missing_for_triton(device, divergence)
    if missing:
        raise InputError(f"backend 'triton' cannot be had here: {missing}; use 'compiled' or 'eager'")
    from abkd.losses.triton._launch import triton_rows

    return asked, triton_rows


_failed: list[str] = []


def _compiled_or_eager(*block: Any) -> tuple[Tensor, Tensor]:
    """Compiled, until the compiler fails once: the choice was not the caller's, and neither is the failure."""
    if not _failed:
        try:
            return compiled_rows(*block)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _failed.append(str(error))
            _log.warning("abkd: compiling failed, so linear_divergence_loss runs eager from here on: %s", error)
    return eager_rows(*block)


def _choice(device: torch.device, logits: int) -> tuple[str, str]:
    missing = missing_for_compiling(device)
    if missing:
        return "eager", f"{missing} is missing"
    if logits < _WORTH_COMPILING:
        return "eager", f"this call has fewer than the {_WORTH_COMPILING} logits that are worth compiling for"
    return "compiled", f"{_WORTH_COMPILING} logits or more on {device.type!r} are worth compiling for"


@functools.lru_cache(maxsize=64)
def _say(name: str, reason: str) -> None:
    _log.info("abkd: linear_divergence_loss runs %s: %s", name, reason)
