"""A classifier as a folder: weights, specification, checksums."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from abkd.errors import CorruptFileError, InputError
from abkd.image._packages import needed
from abkd.image.models._build import assemble
from abkd.image.models._classifier import ImageClassifier
from abkd.image.models._libraries import options_of_published
from abkd.image.models._spec import ModelSpec
from abkd.image.models._weights import check_fit, read_safetensors
from abkd.storage import (
    MANIFEST_NAME,
    atomic_write_bytes,
    atomic_write_json,
    read_json,
    staged_folder,
    verify_manifest,
)

SPEC_NAME = "model.json"
WEIGHTS_NAME = "model.safetensors"
_FORMAT = 1


def save_model(model: ImageClassifier, folder: str | os.PathLike[str]) -> Path:
    """Write a classifier to `folder`, whole or not at all, and return the folder.

    The folder holds `model.safetensors` (the backbone's weights), `model.json` (the specification) and a
    manifest with checksums. A model saved there before is replaced.

    Raises:
        InputError: not an `ImageClassifier`, options that JSON cannot hold, or a folder with other files.
    """
    with needed("safetensors", "engine"):
        from safetensors.torch import save

    if not isinstance(model, ImageClassifier):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"save_model: expected an ImageClassifier, got {type(model).__name__}; wrap it with as_classifier"
        )
    target = Path(folder)
    _refuse_other_files(target)
    weights = {key: value.detach().cpu().clone().contiguous() for key, value in model.backbone.state_dict().items()}
    with staged_folder(target) as staged:
        described = {"format": _FORMAT, "spec": model.spec.to_dict(), "config": model.config_dict}
        atomic_write_json(staged / SPEC_NAME, described)
        atomic_write_bytes(staged / WEIGHTS_NAME, save(weights))
    return target


def load_model(folder: str | os.PathLike[str], *, backbone: nn.Module | None = None) -> ImageClassifier:
    """The classifier that `save_model` wrote, on the CPU and in evaluation mode.

    Args:
        folder: the folder.
        backbone: for a model made by `as_classifier`: a module of the same class, to be filled in place.

    Raises:
        InputError: no saved model there, or weights that do not fit the backbone.
        CorruptFileError: a file that has changed since it was written, or is missing.
    """
    source = Path(folder)
    described = _read_described(source)
    verify_manifest(source)
    spec = _spec_of(described, source)
    if spec.name.startswith("custom:"):
        if backbone is None:
            raise InputError(
                f"{source}: holds a module of your own ({spec.name.partition(':')[2]}), which only you can "
                "build: load_model(folder, backbone=YourModule(...))"
            )
        model = ImageClassifier(backbone, spec)
    elif backbone is not None:
        raise InputError(f"{source}: holds {spec.name}, which is built by name; leave out backbone")
    else:
        given = {"mean": spec.mean, "std": spec.std, "input_size": spec.input_size}
        model = assemble(_untrained(spec), given, cast("dict[str, Any] | None", described.get("config")))
        model = ImageClassifier(model.backbone, spec, model.config_dict)
    weights = read_safetensors(source / WEIGHTS_NAME)
    check_fit(weights, model.backbone.state_dict(), str(source / WEIGHTS_NAME), spec.name)
    model.backbone.load_state_dict(weights)
    return model.eval()


def read_spec(folder: str | os.PathLike[str]) -> ModelSpec:
    """The specification of a saved model, without building it.

    Raises:
        InputError: no saved model there.
        CorruptFileError: the specification cannot be read.
    """
    source = Path(folder)
    return _spec_of(_read_described(source), source)


def _untrained(spec: ModelSpec) -> ModelSpec:
    """The specification without the download of first weights, which the saved ones replace."""
    kept = options_of_published(spec.name) if spec.pretrained else {}
    return replace(spec, pretrained=False, options={**kept, **spec.options})


def _read_described(source: Path) -> dict[str, Any]:
    if not (source / SPEC_NAME).is_file():
        if (source / MANIFEST_NAME).is_file():
            verify_manifest(source)
        raise InputError(
            f"{source}: expected a folder made by save_model, with {SPEC_NAME} in it, found none "
            "(a transformers folder is named hf:PATH)"
        )
    described: Any = read_json(source / SPEC_NAME)
    if not isinstance(described, dict) or "spec" not in described:
        raise CorruptFileError(f"{source / SPEC_NAME}: expected a model's specification")
    fields = cast("dict[str, Any]", described)
    if fields.get("format") != _FORMAT:
        raise InputError(
            f"{source}: saved in format {fields.get('format')!r}, this version reads {_FORMAT}; update abkd"
        )
    return fields


def _spec_of(described: dict[str, Any], source: Path) -> ModelSpec:
    spec: Any = described["spec"]
    if not isinstance(spec, dict):
        raise CorruptFileError(f"{source / SPEC_NAME}: expected a model's specification")
    return ModelSpec.from_dict(cast("dict[str, Any]", spec))


def _refuse_other_files(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target}: expected a folder to save the model in, found a file")
    others = sorted({path.name for path in target.iterdir()} - {SPEC_NAME, WEIGHTS_NAME, MANIFEST_NAME})
    if others:
        raise InputError(f"{target}: holds other files ({others[0]}, ...); give the model a folder of its own")
