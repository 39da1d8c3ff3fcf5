"""`dense_rows` through `torch.compile`: one graph for each shape and form, two for the whole (alpha, beta) plane."""

from __future__ import annotations

import logging
import shutil
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from abkd.divergences import Divergence
from abkd.losses._rows import Compared, Form, compare_rows, log_sum, pull_rows

_log = logging.getLogger("abkd")

Rows = Callable[
    [Tensor, "Tensor | None", Tensor, Tensor, "Tensor | None", Tensor, "Divergence | None", Form], tuple[Tensor, Tensor]
]

_OPTIONS: dict[str, Any] = {
    "realize_opcount_threshold": 10_000,
    "realize_reads_threshold": 10_000,
    "realize_acc_reads_threshold": 10_000,
}
"""One loop from the logits to f and u: by itself the compiler would write what is shared among them to memory."""

_compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}
_prepared: dict[tuple[Divergence, torch.dtype, torch.device], Divergence] = {}
_numbers_needed: set[type[Divergence]] = set()
"""Members that decide something by a number: compiled for each setting."""


def missing_for_compiling(device: torch.device) -> str | None:
    """What this machine lacks to compile for the device, in words; None if nothing."""
    if device.type == "cpu":
        from torch._inductor import config

        compilers: Any = config.cpp.cxx
        found = any(
            name and shutil.which(name) for name in (compilers if isinstance(compilers, tuple) else (compilers,))
        )
        return None if found else "a C++ compiler (such as g++)"
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "Triton"
    return f"a compiler for {device.type!r} devices that was tried with this package"


def compiled_rows(
    student: Tensor,
    teacher: Tensor | None,
    kd_weight: Tensor,
    ce_weight: Tensor,
    labels: Tensor | None,
    scalars: Tensor,
    divergence: Divergence | None,
    form: Form,
) -> tuple[Tensor, Tensor]:
    """`dense_rows`, its two halves compiled at the first call with these shapes and this form.

    Raises:
        RuntimeError: whatever the compiler raises.
    """
    layout = (student.shape, student.stride(), student.dtype, student.device, student.data_ptr() % 64 == 0, form)
    layout = (*layout, None if teacher is None else (teacher.dtype, teacher.data_ptr() % 64 == 0))
    compared = _compared(layout, student, teacher, scalars, divergence, form)
    if form.gradient:
        ruling = teacher if form.teacher_rules else None
        _call(layout, pull_rows, (student, ruling, compared, kd_weight, ce_weight, labels, scalars, form))
    return compared.values, log_sum(compared)


def _compared(
    layout: tuple[Any, ...],
    student: Tensor,
    teacher: Tensor | None,
    scalars: Tensor,
    divergence: Divergence | None,
    form: Form,
) -> Compared:
    if divergence is None or type(divergence) in _numbers_needed:
        return _call((*layout, divergence), compare_rows, (student, teacher, scalars, divergence, form))
    tensors = _in_tensors(divergence, scalars)
    key = (*layout, structure(tensors), tuple(tuple(value.shape) for _, value in tensors.tensors()))
    try:
        return _call(key, compare_rows, (student, teacher, scalars, tensors, form))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:
        _log.info("abkd: %s is compiled for each setting, since %s", type(divergence).__name__, _first_line(error))
        _numbers_needed.add(type(divergence))
        return _compared(layout, student, teacher, scalars, divergence, form)


def _in_tensors(divergence: Divergence, like: Tensor) -> Divergence:
    if any(True for _ in divergence.tensors()):
        return divergence.in_tensors(like)
    key = (divergence, like.dtype, like.device)
    if key not in _prepared:
        if len(_prepared) > 64:  # a schedule makes a new one at every step
            _prepared.clear()
        _prepared[key] = divergence.in_tensors(like)
    return _prepared[key]


def structure(divergence: Any) -> Any:
    """What a divergence is made of, without its numbers: equal for members that share a compiled form."""
    if isinstance(divergence, tuple):
        return tuple(structure(part) for part in divergence)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(divergence, Divergence):
        return type(divergence), *(structure(value) for value in vars(divergence).values())
    return divergence if isinstance(divergence, str) else type(divergence)


def _call(key: tuple[Any, ...], function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The function compiled for this key; a code object each, by which torch.compile counts recompilations."""
    known = _compiled.get((function, *key))
    if known is not None:
        return known(*arguments)
    code = function.__code__.replace(co_name=f"{function.__name__}_{len(_compiled)}")
    copy = types.FunctionType(code, function.__globals__, code.co_name, function.__defaults__)
    compiled = torch.compile(copy, fullgraph=True, dynamic=False, options=_OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, about this machine and its own modules
        result = compiled(*arguments)
    _compiled[(function, *key)] = compiled
    return result


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
