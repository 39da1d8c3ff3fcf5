"""One split as a torch data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from abkd.image.data._augment import augmented
from abkd.image.data._sources import MemoryImages, Source

Sample = dict[str, Tensor | int]
_LOOKED_AT = 16


class ImageDataset(Dataset[Sample]):
    """Images of a source, chosen by index, at one size.

    Item `i` is `{"pixel_values": (C, H, W) float32 in [0, 1], "labels": int}`. With augmentation it depends
    on (seed, epoch, i-th index) alone; `set_epoch` reaches workers that are already running.

    Args:
        source: where the images come from.
        indices: which of them, in order.
        size: (H, W).
        augment: "none", "crop-flip" or "imagenet".
        crop: cut photographs to size instead of stretching them.
        seed: of the augmentation.
    """

    def __init__(
        self,
        source: Source,
        indices: Sequence[int] | Tensor,
        size: tuple[int, int],
        *,
        augment: str = "none",
        crop: bool = False,
        seed: int = 0,
    ) -> None:
        self.source = source
        self.indices = torch.as_tensor(indices, dtype=torch.int64)
        self.size = size
        self.augment = augment
        self.crop = crop
        self.labels = source.labels[self.indices]
        self._state = torch.tensor([seed, 0], dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} out of range for {len(self)} images")
        place = int(self.indices[index])
        key = (self.seed, self.epoch, place)
        image = augmented(self.source.image(place), self.size, self.augment, key, crop=self.crop)
        return {"pixel_values": image.to(torch.float32) / 255, "labels": int(self.labels[index])}

    def fingerprint(self) -> str:
        """SHA-256 of the images and their labels, the same wherever they were read from.

        Of pictures that are decoded when asked for, 16 are read, evenly spaced, beside all labels.
        """
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        if isinstance(self.source, MemoryImages):
            digest.update(self.source.images[self.indices].numpy().tobytes())
        else:
            some = self.indices[torch.linspace(0, len(self) - 1, min(_LOOKED_AT, len(self))).round().long()]
            for index in some.tolist():
                digest.update(self.source.image(index).numpy().tobytes())
        return digest.hexdigest()

    @property
    def seed(self) -> int:
        """Of the augmentation."""
        return int(self._state[0])

    @property
    def epoch(self) -> int:
        """The epoch of the augmentation, from 0."""
        return int(self._state[1])

    def set_seed(self, seed: int) -> None:
        """Fix the augmentation of a run: a number of at least 0."""
        self._state[0] = seed

    def set_epoch(self, epoch: int) -> None:
        """Go to another epoch's augmentation: a number of at least 0."""
        self._state[1] = epoch
