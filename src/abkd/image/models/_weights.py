"""Weights from a file: safetensors, or a published .pth, read without running anything in it."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from abkd.errors import CorruptFileError, InputError
from abkd.image._packages import needed
from abkd.image.models._classifier import ImageClassifier
from abkd.image.models.cifar import NAMES, published_key

_INSIDE = ("model", "state_dict", "model_state_dict", "net")  # where checkpoints keep the weights
_PREFIXES = ("module.", "backbone.")
_COUNTER = "num_batches_tracked"


def load_weights(model: ImageClassifier, path: str | os.PathLike[str]) -> None:
    """Load a checkpoint of the same architecture into `model`.

    Args:
        model: what `build_model` made.
        path: a `.safetensors` file, or a file of `torch.save`: a state dict, or a dict that has one as
            `model`, `state_dict`, `model_state_dict` or `net`, as public CIFAR teachers do. A `module.`
            before each name is ignored, and the names of the published networks are translated.

    Raises:
        InputError: no such file, a file with objects other than tensors, or weights of another model.
        CorruptFileError: the file is damaged.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"weights: expected a file, found none at {file}")
    found = _tensors(_read(file), file)
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in found):
            found = {key[len(prefix) :]: value for key, value in found.items()}
    expected = model.backbone.state_dict()
    if model.spec.name in NAMES:  # names that are ours already stay as they are
        translate = published_key(model.spec.name)
        found = {translate(key): value for key, value in found.items()}
    check_fit(found, expected, f"{file}", model.spec.name)
    model.backbone.load_state_dict(found, strict=False)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        CorruptFileError: the file is not whole.
    """
    with needed("safetensors", "engine"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise CorruptFileError(f"{file}: not a whole safetensors file ({error}); use another copy") from error


def check_fit(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, name: str) -> None:
    """Refuse weights that are not those of this architecture.

    Raises:
        InputError: names or shapes differ; the message gives the first of each kind.
    """
    missing = [key for key in expected if key not in found and not key.endswith(_COUNTER)]
    extra = [key for key in found if key not in expected and not key.endswith(_COUNTER)]
    shapes = [key for key in expected if key in found and found[key].shape != expected[key].shape]
    faults = [
        f"{len(keys)} {what}, first {keys[0]!r}" for what, keys in (("missing", missing), ("unknown", extra)) if keys
    ]
    if shapes:
        key = shapes[0]
        faults.append(
            f"{len(shapes)} of another shape, first {key!r}: expected {tuple(expected[key].shape)}, "
            f"found {tuple(found[key].shape)}"
        )
    if faults:
        raise InputError(
            f"{source}: these are not weights of {name} ({'; '.join(faults)}); "
            "build the model with the name, num_classes and options that it was saved with"
        )


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    try:
        # Some published checkpoints keep their command line as an argparse.Namespace: plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and "GLOBAL" in str(error):
            raise InputError(
                f"{file}: holds Python objects other than tensors, which could run code when read; if you "
                "trust it, save its state dict alone with torch.save(checkpoint['model'], path)"
            ) from error
        raise CorruptFileError(f"{file}: cannot be read as weights ({_first_line(error)})") from error
    except (EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, OSError) as error:
        raise CorruptFileError(f"{file}: cannot be read as weights ({_first_line(error)})") from error


def _tensors(content: Any, file: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint."""
    if isinstance(content, Mapping):
        mapping = cast("Mapping[str, Any]", content)
        for key in _INSIDE:
            if isinstance(mapping.get(key), Mapping):
                mapping = cast("Mapping[str, Any]", mapping[key])
                break
        tensors = {str(key): value for key, value in mapping.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(mapping):
            return tensors
    raise InputError(
        f"{file}: expected a state dict (names to tensors), alone or under {', '.join(map(repr, _INSIDE))}, "
        f"found {type(content).__name__}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
