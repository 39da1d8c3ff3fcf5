"""The classification data sets of torchvision, by the name of their class."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from abkd.errors import InputError, nearest
from abkd.image._packages import needed
from abkd.image._pixels import CIFAR10_MEAN, CIFAR10_STD, CIFAR100_MEAN, CIFAR100_STD
from abkd.image.data._raw import Raw, assemble
from abkd.image.data._sources import DecodedImages, MemoryImages, of_array

_LABELS = ("targets", "labels", "_labels", "y")
_PAIRS = ("_samples", "samples")


@dataclass(frozen=True)
class Known:
    """What torchvision does not say of a data set.

    Attributes:
        cls: the class in torchvision.datasets.
        splits: our split -> the value of its argument `split`.
        augment: what "auto" means; None: decided by the images.
        size: (height, width), where the images differ in size or are large.
        mean: a channel, of the training pixels.
        std: a channel.
    """

    cls: str
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "test": "test"})
    augment: str | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


_THREE = {"train": "train", "validation": "val", "test": "test"}
KNOWN = {
    "cifar10": Known("CIFAR10", mean=CIFAR10_MEAN, std=CIFAR10_STD),
    "cifar100": Known("CIFAR100", mean=CIFAR100_MEAN, std=CIFAR100_STD),
    "mnist": Known("MNIST"),
    "fashionmnist": Known("FashionMNIST"),
    "svhn": Known("SVHN", augment="none"),
    "stl10": Known("STL10"),
    "food101": Known("Food101"),
    "eurosat": Known("EuroSAT"),
    "flowers102": Known("Flowers102", _THREE),
    "dtd": Known("DTD", _THREE),
    "fgvcaircraft": Known("FGVCAircraft", _THREE),
    "oxfordiiitpet": Known("OxfordIIITPet", {"train": "trainval", "test": "test"}),
    "stanfordcars": Known("StanfordCars"),
    "sun397": Known("SUN397"),
    "caltech101": Known("Caltech101"),
    "gtsrb": Known("GTSRB", augment="none", size=(32, 32)),
    "imagenette": Known("Imagenette", {"train": "train", "test": "val"}),
    "country211": Known("Country211", {"train": "train", "validation": "valid", "test": "test"}),
}


def load_torchvision(name: str, root: str | os.PathLike[str] | None, download: bool, options: Mapping[str, Any]) -> Raw:
    """A data set of torchvision.

    Args:
        name: a key of `KNOWN`, or the name of a class in torchvision.datasets.
        root: the folder that holds its files, as torchvision lays them out.
        download: fetch them there first.
        options: further arguments of the class.

    Raises:
        InputError: no such class, no such files, wrong options, or a data set that is not for classification.
    """
    known = KNOWN.get(name.lower(), Known(name))
    cls = _class(known.cls)
    if root is None:
        raise InputError(
            f"{name}: expected root, the folder that holds its files as torchvision lays them out, or that "
            "will hold them with download=True; got none"
        )
    splits = {
        split: _made(name, cls, {**options, **arguments}, root, download)
        for split, arguments in _arguments(cls, known, options).items()
    }
    class_names = _class_names(splits, name)
    sources = {split: _source(data, f"{name}, {split} split") for split, data in splits.items()}
    return assemble(name, sources, class_names, augment=known.augment, size=known.size, mean=known.mean, std=known.std)


def _class(name: str) -> Any:
    with needed("torchvision"):
        from torchvision import datasets
        from torchvision.datasets import VisionDataset

    found: Any = getattr(datasets, name, None)
    if not (inspect.isclass(found) and issubclass(found, VisionDataset)):
        names = [key for key in datasets.__all__ if key not in ("VisionDataset", "wrap_dataset_for_transforms_v2")]
        raise InputError(f"torchvision:{name}: no such data set; {nearest(name, names)}")
    return found


def _arguments(cls: Any, known: Known, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Our split -> the arguments that choose it; a data set without splits is all training."""
    parameters = inspect.signature(cls).parameters
    if "train" in parameters:
        return {"train": {"train": True}, "test": {"train": False}}
    if "split" in parameters and "split" not in options:
        return {split: {"split": value} for split, value in known.splits.items()}
    return {"train": {}}


def _made(name: str, cls: Any, arguments: dict[str, Any], root: str | os.PathLike[str], download: bool) -> Any:
    parameters = inspect.signature(cls).parameters
    unknown = [key for key in arguments if key not in parameters]
    if unknown:
        raise InputError(f"{name}: unknown option {unknown[0]!r}; {nearest(unknown[0], parameters)}")
    if "download" in parameters:
        arguments["download"] = download
    elif download:
        raise InputError(f"{name}: torchvision cannot download this data set; put its files under root")
    try:
        return cls(root=os.fspath(root), **arguments)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{name}: torchvision cannot load it from root={os.fspath(root)!r} ({error}); "
            "put its files there as torchvision lays them out, or set download=True"
        ) from error


def _class_names(splits: Mapping[str, Any], name: str) -> tuple[str, ...]:
    for attribute in ("classes", "categories"):
        names: Any = getattr(splits["train"], attribute, None)
        if isinstance(names, (list, tuple)) and names:
            return tuple(str(item) for item in cast("list[Any]", names))
    largest = max(int(_labels(data, name).max()) for data in splits.values())
    return tuple(str(label) for label in range(largest + 1))


def _source(data: Any, where: str) -> DecodedImages | MemoryImages:
    labels = _labels(data, where)
    pixels = getattr(data, "data", None)
    if getattr(pixels, "ndim", 0) in (3, 4):
        return of_array(pixels, labels, where)
    return DecodedImages(_Pictures(data), labels, channels=3, where=_Places(where))


def _labels(data: Any, where: str) -> Tensor:
    for attribute in _LABELS:
        found: Any = getattr(data, attribute, None)
        if found is not None and len(found):
            return _as_labels(found, where)
    for attribute in _PAIRS:
        found = getattr(data, attribute, None)
        if found:
            return _as_labels([pair[1] for pair in found], where)
    raise InputError(f"{where}: no class labels found; only data sets for classification can be used")


def _as_labels(values: Any, where: str) -> Tensor:
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: expected one class index an image ({error})") from error
    if labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"{where}: expected one class index an image, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}; only data sets for classification can be used"
        )
    return labels.to(torch.int64)


@dataclass(frozen=True)
class _Pictures:
    """The picture of a torchvision item; a class, so that workers can be given it."""

    data: Any

    def __call__(self, index: int) -> Any:
        return self.data[index][0]


@dataclass(frozen=True)
class _Places:
    where: str

    def __call__(self, index: int) -> str:
        return f"{self.where}, image {index}"
