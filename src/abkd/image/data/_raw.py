"""What a loader hands over, before it is split and sized."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from abkd.errors import InputError
from abkd.image.data._sources import DecodedImages, MemoryImages, Source, into_memory

_PHOTOGRAPH = (224, 224)


@dataclass(frozen=True)
class Raw:
    """The splits of a data set as they came.

    Attributes:
        train: images to train on.
        validation: a validation split of the data's own, or None.
        test: the test split, or None if the data has none.
        class_names: name of each label.
        channels: 1 or 3.
        size: (height, width) where all images have the same and it is small, or the usual size; else None.
        augment: what "auto" means, or None to decide by the images.
        mean: known mean a channel, or None.
        std: known standard deviation a channel, or None.
    """

    train: Source
    validation: Source | None
    test: Source | None
    class_names: tuple[str, ...]
    channels: int
    size: tuple[int, int] | None = None
    augment: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def photographs(self) -> bool:
        """Whether the images are large or differ in size."""
        return self.size is None

    @property
    def default_size(self) -> tuple[int, int]:
        """The images' own size, or that of photographs, 224 x 224."""
        return self.size or _PHOTOGRAPH

    @property
    def default_augment(self) -> str:
        """Small RGB images: crop-flip; photographs: imagenet; grey images: none, they may be characters."""
        if self.augment is not None:
            return self.augment
        if self.channels == 1:
            return "none"
        return "imagenet" if self.photographs else "crop-flip"


def assemble(
    name: str,
    splits: dict[str, DecodedImages | MemoryImages],
    class_names: tuple[str, ...],
    **known: object,
) -> Raw:
    """A `Raw` of splits `train`, `validation` and `test`, small pictures decoded into memory.

    With a training split and one other, the other is the test split, and validation is held out of training.

    Raises:
        InputError: no training split, an empty split, or labels that are missing or out of range.
    """
    if "train" not in splits:
        raise InputError(f"{name}: expected a training split, found {', '.join(splits) or 'none'}")
    for split, source in splits.items():
        check_labels(f"{name}, {split} split", source.labels, len(class_names))
    if "validation" in splits and "test" not in splits:
        splits = {"train": splits["train"], "test": splits["validation"]}
    channels, size = _look(splits["train"])
    ready = {split: _ready(source, channels, size) for split, source in splits.items()}
    raw = Raw(ready["train"], ready.get("validation"), ready.get("test"), class_names, channels, size)
    return replace(raw, **{key: value for key, value in known.items() if value is not None})


def check_labels(where: str, labels: Tensor, num_classes: int) -> None:
    """Refuse a split without images, or with labels outside 0 .. K - 1.

    Raises:
        InputError: as said.
    """
    if not len(labels):
        raise InputError(f"{where}: expected images, found none")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise InputError(
            f"{where}: expected labels 0 to {num_classes - 1}, found {low if low < 0 else high}; a split "
            "whose labels are withheld cannot be used: name another, or remove it"
        )


def _look(source: DecodedImages | MemoryImages) -> tuple[int, tuple[int, int] | None]:
    if isinstance(source, DecodedImages):
        return source.look()
    return source.images.shape[1], (source.images.shape[2], source.images.shape[3])


def _ready(source: DecodedImages | MemoryImages, channels: int, size: tuple[int, int] | None) -> Source:
    if isinstance(source, MemoryImages):
        return source
    source = replace(source, channels=channels)
    return source if size is None else into_memory(source, size)
