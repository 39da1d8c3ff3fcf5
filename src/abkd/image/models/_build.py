"""Classifiers by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from abkd.errors import InputError, nearest
from abkd.image._pixels import CIFAR100_MEAN, CIFAR100_STD, size_pair
from abkd.image.models._classifier import ImageClassifier
from abkd.image.models._cnn import SmallCNN
from abkd.image.models._libraries import Built, from_config, from_timm, from_torchvision, from_transformers
from abkd.image.models._spec import ModelSpec
from abkd.image.models._weights import load_weights
from abkd.image.models.cifar import NAMES, cifar_model

LIBRARIES = ("timm", "torchvision", "hf")
_OWN = {name.lower(): name for name in (*NAMES, "cnn")}
_CNN_OPTIONS = ("widths", "hidden", "grid")
_KEYWORDS = ("channels", "pretrained", "mean", "std", "input_size", "weights")


def model_names() -> tuple[str, ...]:
    """The names that `build_model` knows by itself; besides there are `timm:`, `torchvision:` and `hf:`."""
    return tuple(sorted(_OWN.values(), key=str.lower))


def build_model(
    name: str | os.PathLike[str],
    *,
    num_classes: int,
    channels: int = 3,
    pretrained: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: Sequence[int] | int | None = None,
    weights: str | os.PathLike[str] | None = None,
    **options: Any,
) -> ImageClassifier:
    """Make a classifier, in training mode, with first weights drawn from torch's generator.

    Args:
        name: a name of `model_names()` in any case (the networks for small images of the distillation papers,
            and `cnn` with options `widths=(8, 16)`, `hidden=32`, `grid=4`); `timm:NAME`; `torchvision:NAME`;
            `hf:NAME`, a transformers repository, folder or model type; or a folder made by `save_model`,
            which comes in evaluation mode.
        num_classes: number of classes K.
        channels: channels of the images. The backbone is built for them where it can be; torchvision's and
            trained transformers models take RGB, and grey images are repeated for them.
        pretrained: start from the library's own published weights, with a new head if K differs.
        mean: per channel, subtracted from pixels in [0, 1]. None: what the weights were trained with if
            known, CIFAR-100's for RGB networks of the papers, else 0.
        std: per channel, the divisor afterwards. None: as for `mean`, else 1.
        input_size: a side, or (height, width), to which images are resized. None: what the architecture asks
            for, else images as they come.
        weights: a file to load, see `load_weights`.
        **options: of the architecture; handed to `timm.create_model`, `torchvision.models.get_model`, or set
            on the transformers configuration.

    Raises:
        InputError: an unknown name or option, numbers that do not fit, weights of another model, or a
            download that failed.
        CorruptFileError: a damaged file.
        MissingPackageError: the library of this model is not installed.
    """
    name = os.fspath(name)
    given = {"mean": mean, "std": std, "input_size": input_size}
    if Path(name).is_dir() and name.lower() not in _OWN:
        return _of_folder(name, num_classes, pretrained or weights is not None or bool(options), given)
    spec = ModelSpec(
        name=_OWN.get(name.lower(), name),
        num_classes=num_classes,
        channels=channels,
        pretrained=pretrained,
        options=options,
    )
    model = assemble(spec, given)
    if weights is not None:
        load_weights(model, weights)
    return model


def assemble(spec: ModelSpec, given: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> ImageClassifier:
    """The architecture of `spec`, with the preprocessing `given` before what the library knows.

    Args:
        spec: name, classes, channels and options.
        given: `mean`, `std`, `input_size`; None where the library decides.
        config: the configuration of a saved transformers model, used instead of its name.
    """
    built = from_config(config) if config is not None else _backbone(spec)
    mean, std = given["mean"], given["std"]
    size = given["input_size"]
    full = replace(
        spec,
        channels=built.channels,
        mean=tuple((built.mean if mean is None else mean) or ()),
        std=tuple((built.std if std is None else std) or ()),
        input_size=built.input_size if size is None else size_pair("input_size", size),
    )
    return ImageClassifier(built.backbone, full, built.config)


def _backbone(spec: ModelSpec) -> Built:
    library, colon, name = spec.name.partition(":")
    common = (name, spec.num_classes)
    if colon and library == "timm":
        return from_timm(*common, spec.channels, spec.pretrained, spec.options)
    if colon and library == "torchvision":
        return from_torchvision(*common, spec.pretrained, spec.options)
    if colon and library == "hf":
        return from_transformers(*common, spec.channels, spec.pretrained, spec.options)
    if spec.name not in _OWN.values():
        raise InputError(
            f"unknown model {spec.name!r}; {nearest(spec.name, model_names())}; also timm:NAME, "
            "torchvision:NAME, hf:NAME, or a folder made by save_model"
        )
    if spec.pretrained:
        raise InputError(f"{spec.name}: no published weights to fetch; give weights=PATH of a checkpoint instead")
    return _own(spec)


def _own(spec: ModelSpec) -> Built:
    known = (*_KEYWORDS, *_CNN_OPTIONS) if spec.name == "cnn" else _KEYWORDS
    for option in spec.options:
        if option not in _CNN_OPTIONS or spec.name != "cnn":
            raise InputError(f"{spec.name}: unknown option {option!r}; {nearest(option, known)}")
    if spec.name == "cnn":
        make: Callable[..., nn.Module] = SmallCNN
        return Built(make(spec.num_classes, spec.channels, **spec.options), spec.channels)
    backbone = cifar_model(spec.name, spec.num_classes, spec.channels)
    if spec.channels != 3:
        return Built(backbone, spec.channels)
    return Built(backbone, 3, CIFAR100_MEAN, CIFAR100_STD)


def _of_folder(name: str, num_classes: int, altered: bool, given: Mapping[str, Any]) -> ImageClassifier:
    from abkd.image.models._save import load_model

    if altered:
        raise InputError(f"{name}: a saved model takes no pretrained, weights or options of its own")
    model = load_model(name)
    if model.num_classes != num_classes:
        raise InputError(f"{name}: this model has {model.num_classes} classes, expected {num_classes}")
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        return model
    if "input_size" in changes:
        changes["input_size"] = size_pair("input_size", changes["input_size"])
    for key in ("mean", "std"):
        if key in changes:
            changes[key] = tuple(changes[key])
    return ImageClassifier(model.backbone, replace(model.spec, **changes), model.config_dict).eval()
