"""Classifiers of timm, torchvision and transformers, by name, with the preprocessing that they expect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from abkd.errors import AbkdError, InputError, nearest
from abkd.image._packages import needed
from abkd.image._pixels import size_pair

_INCEPTIONS = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Built:
    """A backbone and what is known of its preprocessing; None where the caller decides."""

    backbone: nn.Module
    channels: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_size: tuple[int, int] | None = None
    config: dict[str, Any] | None = None


def from_timm(name: str, num_classes: int, channels: int, pretrained: bool, options: Mapping[str, Any]) -> Built:
    """`timm.create_model(name, ...)`; mean, std and size are timm's own for these weights."""
    with needed("timm"):
        import timm
        from timm.data.config import resolve_model_data_config

    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=channels, **options)
    except Exception as error:  # timm and the hub behind it raise many kinds
        raise _not_built("timm", name, pretrained, error, timm.list_models()) from error
    settings = resolve_model_data_config(model)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is None and (pretrained or getattr(model, "default_cfg", {}).get("fixed_input_size")):
        size = settings["input_size"][1:]
    mean, std = tuple(settings["mean"]), tuple(settings["std"])
    if len(mean) != channels:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    return Built(model, channels, mean, std, size_pair("input_size", size))


def from_torchvision(name: str, num_classes: int, pretrained: bool, options: Mapping[str, Any]) -> Built:
    """`torchvision.models.get_model(name, ...)`, which takes RGB; the head is new where its size differs."""
    with needed("torchvision"):
        from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"torchvision:{name}: no classifier of this name{_guess(name, known)}")
    settings = dict(options)
    if name in _INCEPTIONS:  # only their logits are used here, so no auxiliary heads
        settings = {"aux_logits": False, "init_weights": not pretrained} | settings
    if pretrained:
        settings = options_of_published(f"torchvision:{name}") | settings
    try:
        model = models.get_model(name, num_classes=num_classes, **settings)
        weights = models.get_model_weights(name).DEFAULT if pretrained else None  # pyright: ignore
        if weights is not None:
            _load_but_head(model, cast("dict[str, Any]", weights.get_state_dict(progress=False)))
    except AbkdError:
        raise
    except Exception as error:  # a wrong option, or a download that failed
        raise _not_built("torchvision", name, pretrained, error, known) from error
    side = getattr(model, "image_size", None)
    if weights is None:
        return Built(model, 3, input_size=size_pair("input_size", side))
    preset: Any = weights.transforms()
    size = size_pair("input_size", side or tuple(preset.crop_size) * (3 - len(preset.crop_size)))
    return Built(model, 3, tuple(preset.mean), tuple(preset.std), size)


def options_of_published(name: str) -> dict[str, Any]:
    """Options without weights of their own that an architecture is built with for its published weights alone."""
    return {"transform_input": True} if name.removeprefix("torchvision:") in _INCEPTIONS else {}


def from_transformers(
    name: str, num_classes: int, channels: int, pretrained: bool, options: Mapping[str, Any]
) -> Built:
    """A transformers classifier: of a repository or folder, or, untrained, of a model type such as "vit"."""
    with needed("transformers"):
        from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageClassification

    types = sorted(CONFIG_MAPPING.keys())
    try:
        if name in types and not Path(name).exists():
            if pretrained:
                raise InputError(
                    f"hf:{name}: this is a kind of model, which has no weights; name a repository or a "
                    "folder, or leave out pretrained"
                )
            default = AutoConfig.for_model(name)
            _check_options(name, default, options)
            colours = {"num_channels": channels} if hasattr(default, "num_channels") else {}
            config = AutoConfig.for_model(name, **colours, **options, num_labels=num_classes)
            model: Any = AutoModelForImageClassification.from_config(config)
        else:
            config = AutoConfig.from_pretrained(name)
            _check_options(name, config, options)
            for key, value in {**options, "num_labels": num_classes}.items():
                setattr(config, key, value)
            if pretrained:
                model, found = AutoModelForImageClassification.from_pretrained(
                    name, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
                )
                _check_loaded(name, model, found, bool(options))
            else:
                model = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    except AbkdError:
        raise
    except Exception as error:  # transformers and the hub behind it raise many kinds
        raise _not_built("hf", name, pretrained, error, types) from error
    mean, std = _processor_numbers(name) if pretrained else (None, None)
    return _of_transformers(model, channels, mean, std)


def from_config(config: Mapping[str, Any]) -> Built:
    """An untrained transformers classifier of a configuration written by `config.to_dict()`."""
    with needed("transformers"):
        from transformers import AutoConfig, AutoModelForImageClassification

    try:
        model = AutoModelForImageClassification.from_config(AutoConfig.for_model(**config))
    except Exception as error:  # an unknown model type, or settings of another transformers version
        raise InputError(
            f"this transformers version cannot build the saved {config.get('model_type')!r}: {error}"
        ) from error
    return _of_transformers(model, 3, None, None)


def _of_transformers(model: Any, channels: int, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Built:
    config = model.config
    size: Any = getattr(getattr(config, "vision_config", config), "image_size", None)
    if isinstance(size, Mapping):
        size = (size["height"], size["width"])  # pyright: ignore[reportUnknownVariableType]
    return Built(
        model,
        int(getattr(config, "num_channels", channels)),
        mean,
        std,
        size_pair("input_size", size),
        config.to_dict(),
    )


def _check_options(name: str, config: Any, options: Mapping[str, Any]) -> None:
    """Refuse what the configuration does not have: by itself it would accept any name."""
    known = [key for key in config.to_dict() if not key.startswith("_")]
    for key in options:
        if not hasattr(config, key):
            raise InputError(f"hf:{name}: unknown option {key!r}; {nearest(key, known)}")


def _check_loaded(name: str, model: Any, found: Mapping[str, Any], altered: bool) -> None:
    """Refuse a model of which more than the head has random weights: its options are not those of the weights."""
    odd = [key for key, theirs, own in found["mismatched_keys"] if tuple(theirs)[1:] != tuple(own)[1:]]
    if altered:
        odd += [key for key in found["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")]
    if odd:
        raise InputError(f"hf:{name}: the published weights have no {min(odd)} of this shape; leave out the options")


def _processor_numbers(name: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and std of a repository's image processor, or None where it has none or does not normalise."""
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError, KeyError):
        return (
            None,
            None,
        )  # no processor beside the weights: pixels stay in [0, 1] unless mean and std are given
    if not getattr(processor, "do_normalize", False):
        return None, None
    return tuple(processor.image_mean), tuple(processor.image_std)


def _load_but_head(model: nn.Module, weights: dict[str, Any]) -> None:
    """Load published weights, leaving out the parts of the head whose number of classes differs."""
    own = model.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and value.shape == own[key].shape}
    for key in model.load_state_dict(fitting, strict=False).missing_keys:
        if key not in weights or weights[key].shape[1:] != own[key].shape[1:]:
            raise InputError(f"the published weights have no {key} of this shape; leave out the options")


def _not_built(library: str, name: str, pretrained: bool, error: Exception, known: Iterable[str]) -> InputError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    remedy = (
        "check the name and the connection, or give weights=PATH of a file instead of pretrained"
        if pretrained
        else "check the name and the options"
    )
    return InputError(f"{library}:{name}: cannot be built ({reason}); {remedy}{_guess(name, known)}")


def _guess(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = [] if name in names else get_close_matches(name, names, n=3, cutoff=0.6)
    return f"; did you mean {', '.join(map(repr, close))}?" if close else ""
