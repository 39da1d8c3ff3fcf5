"""A teacher that is a module: checked to be frozen, run without gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from abkd.errors import InputError

_REMEDY = "call teacher.eval().requires_grad_(False), or pass abkd.teachers.LiveTeacher.frozen(teacher)"


@runtime_checkable
class Teacher(Protocol):
    """What a trainer asks of a teacher.

    Attributes:
        num_classes: the number of classes of its logits, or None where it cannot be known beforehand.
        fingerprint: 64 hexadecimal digits that change with its weights.
    """

    @property
    def num_classes(self) -> int | None: ...

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits (B, K) for a batch of inputs (B, ...), without a gradient."""
        ...

    def to(self, device: torch.device | str) -> Any:
        """Move to a device, in place."""
        ...


class LiveTeacher:
    """A frozen module as a teacher.

    Args:
        module: returns logits as a tensor, as an output with `.logits`, as a dict with `"logits"`, or as a
            tuple that opens with them.

    Raises:
        InputError: `module` is not a module, any part of it is in train mode (dropout, or batch norm that
            changes with what it sees), or any of its parameters asks for a gradient.
    """

    def __init__(self, module: nn.Module) -> None:
        check_frozen(module)
        self.module = module
        self._fingerprint: str | None = None

    @classmethod
    def frozen(cls, module: nn.Module) -> LiveTeacher:
        """Put `module` in eval mode, switch off its gradients (both in place) and wrap it."""
        return cls(module.eval().requires_grad_(False))

    @property
    def num_classes(self) -> int | None:
        """From the module's `num_classes`, or `config.num_labels`; None if it has neither."""
        return known_num_classes(self.module)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the module's structure and weights, computed once."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self.module)
        return self._fingerprint

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits (B, K) for inputs (B, ...).

        Raises:
            InputError: the module was put in train mode after it was wrapped.
        """
        if self.module.training:
            raise InputError(f"the teacher was put in train mode while it was teaching; {_REMEDY}")
        return logits_of(self.module(inputs)).detach()

    def to(self, device: torch.device | str) -> LiveTeacher:
        """Move the module to a device, in place."""
        self.module.to(device)
        return self


def as_teacher(teacher: object) -> Teacher:
    """A teacher as it is; a module checked and wrapped as `LiveTeacher`.

    Raises:
        InputError: a module that is not frozen, or something that is neither.
    """
    if isinstance(teacher, nn.Module):
        return LiveTeacher(teacher)
    if isinstance(teacher, Teacher):
        return teacher
    raise InputError(f"expected a torch module or a Teacher as the teacher, got {type(teacher).__name__}")


def logits_of(output: Any) -> Tensor:
    """The logits in what a classifier returned: a tensor, `.logits`, `["logits"]`, or the first of a tuple.

    Raises:
        InputError: none of these.
    """
    found: Any = output
    if isinstance(output, Mapping):
        found = cast("Mapping[str, Any]", output).get("logits")
    elif not isinstance(output, Tensor) and hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, (tuple, list)) and output:
        found = cast("tuple[Any, ...]", output)[0]
    if isinstance(found, Tensor):
        return found
    raise InputError(
        f"expected a model that returns logits (a tensor, .logits, ['logits'] or a tuple opening with them), "
        f"got {type(output).__name__}"
    )


def known_num_classes(module: nn.Module) -> int | None:
    """The number of classes a module says it has: `num_classes`, or `config.num_labels`; None if neither."""
    for value in (
        getattr(module, "num_classes", None),
        getattr(getattr(module, "config", None), "num_labels", None),
    ):
        if isinstance(value, int):
            return value
    return None


def fingerprint_of(module: nn.Module) -> str:
    """SHA-256 over a module's printed structure and the names, types, shapes and bytes of all its tensors."""
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> bytes:
    """The raw bytes of a tensor of any type, in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def check_frozen(module: Any) -> None:
    """Raise `InputError` unless `module` is a module in eval mode that asks for no gradient."""
    if not isinstance(module, nn.Module):
        raise InputError(f"expected a torch module as the teacher, got {type(module).__name__}")
    for name, part in module.named_modules():
        if part.training:
            where = f"its part {name!r}" if name else "it"
            raise InputError(f"the teacher must be frozen, but {where} is in train mode; {_REMEDY}")
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            raise InputError(f"the teacher must be frozen, but its {name!r} asks for gradients; {_REMEDY}")
