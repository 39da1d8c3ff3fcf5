"""What a loss asks of its arguments, said before anything is computed."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from abkd.divergences import Divergence
from abkd.errors import InputError, nearest

REDUCTIONS = ("mean", "sum", "none")


def check_divergence(divergence: Any) -> None:
    """A divergence, not its class nor its name."""
    if isinstance(divergence, Divergence):
        return
    if isinstance(divergence, type) and issubclass(divergence, Divergence):
        raise InputError(f"divergence: expected an instance, got the class; write {divergence.__name__}(...)")
    raise InputError(
        f"divergence: expected an abkd divergence such as AlphaBeta(0.2, 0.7), got {divergence!r}; "
        "abkd.divergences.by_name finds one by its name"
    )


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # also of whole numbers that no float holds


def check_positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    if not _is_finite(value) or value <= 0:
        raise InputError(f"{name}: expected a finite number above 0, got {value!r}")
    return float(value)


def check_weight(name: str, value: Any) -> float:
    """A finite number of at least 0."""
    if not _is_finite(value) or value < 0:
        raise InputError(f"{name}: expected a finite number of at least 0, got {value!r}")
    return float(value)


def check_log_floor(value: Any) -> None:
    """None, or a finite log-probability below 0."""
    if value is None:
        return
    if not _is_finite(value) or value >= 0:
        raise InputError(f"log_floor: expected a finite log-probability below 0, such as -30.0, got {value!r}")


def check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    """One of a few words."""
    if value not in known:
        raise InputError(f"{name}: {value!r} is not known: {nearest(str(value), known)}")


def check_floating(name: str, value: Any) -> None:
    """A floating tensor with at least one class axis."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name}: expected a tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise InputError(f"{name}: expected floating logits, got dtype {value.dtype}; were ids or labels passed?")
    if value.dim() == 0 or value.shape[-1] == 0:
        raise InputError(f"{name}: expected shape (..., V) with V of at least 1, got {tuple(value.shape)}")


def check_pair(student: Any, teacher: Any) -> None:
    """Two tensors of logits of one shape on one device."""
    check_floating("student_logits", student)
    check_floating("teacher_logits", teacher)
    if student.shape[-1] != teacher.shape[-1]:
        raise InputError(
            f"student and teacher must have the same classes: the student has {student.shape[-1]}, the teacher "
            f"{teacher.shape[-1]}; if one vocabulary is only padded, slice both logits to the shared part"
        )
    if student.shape != teacher.shape:
        raise InputError(
            f"student and teacher logits must have one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if student.device != teacher.device:
        raise InputError(f"student logits are on {student.device}, teacher logits on {teacher.device}; move one")


def check_mask(mask: Any, shape: torch.Size) -> None:
    """A boolean mask with a value for each token."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(
            f"mask: expected a bool tensor (True: counted), got {kind}; write mask.bool() or labels != -100"
        )
    if mask.shape != shape:
        raise InputError(f"mask: expected shape {tuple(shape)}, one value for each token, got {tuple(mask.shape)}")


def check_settings(divergence: Divergence, shape: torch.Size) -> None:
    """Tensor settings that hold one value for each token (or one for all)."""
    for name, value in divergence.tensors():
        try:
            fits = value.dim() == 0 or (
                value.shape[-1] == 1 and torch.broadcast_shapes(value.shape, (*shape, 1)) == (*shape, 1)
            )
        except RuntimeError:
            fits = False
        if not fits:
            raise InputError(
                f"{name}: expected a number or a tensor that broadcasts to {(*shape, 1)}, one value for each token, "
                f"got shape {tuple(value.shape)}"
            )


def check_labels(labels: Any, shape: torch.Size, classes: int, ignore_index: int | None = -100) -> Tensor:
    """Integer labels, one a token, within the classes (or `ignore_index`, where there is one), as int64.

    A narrow type is widened before anything is compared: in uint8, 156 is -100.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"labels: expected an integer tensor of class indices, got {kind}")
    if labels.shape != shape:
        raise InputError(f"labels: expected shape {tuple(shape)}, one label for each token, got {tuple(labels.shape)}")
    labels = labels.long()
    if torch.compiler.is_compiling() or labels.numel() == 0:
        return labels
    wrong = (labels < 0) | (labels >= classes)
    if ignore_index is not None:
        wrong = wrong & (labels != ignore_index)
    if bool(wrong.any()):
        where = wrong.nonzero()[0].tolist()
        besides = "" if ignore_index is None else f" (or {ignore_index} to leave one out)"
        raise InputError(
            f"labels: expected values in 0..{classes - 1}{besides}, "
            f"got {int(labels[tuple(where)])} at {_position(where)}"
        )
    return labels


def _position(index: list[int]) -> str:
    return f"index {tuple(index)}" if len(index) != 1 else f"index {index[0]}"


def describe_token(index: list[int]) -> str:
    """A token's place for an error message; logits of shape (V,) hold a single one."""
    return f"token {_position(index)}" if index else "the only token"
