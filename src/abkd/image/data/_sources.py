"""Where images come from: bytes in memory, or files that are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from abkd.errors import AbkdError, CorruptFileError, InputError
from abkd.image._packages import needed

with needed("torchvision"):
    from PIL import Image
    from torchvision.transforms.v2 import functional as transforms

SMALL = 96
"""Images of one size with no side above this many pixels count as small."""
_MEMORY = 1 << 30
_LOOKED_AT = 16
_GREY_MODES = ("1", "L", "LA", "La")
_DEEP_MODES = ("I", "F")  # 16 or 32 bits; PIL cuts them off at 255


class Source(Protocol):
    """Images with labels, by index."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        ...

    def image(self, index: int) -> Tensor:
        """(C, h, w), uint8."""
        ...


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """Images of one size, held as bytes.

    Attributes:
        images: (N, C, H, W), uint8.
        labels: (N,), int64.
    """

    images: Tensor
    labels: Tensor

    def image(self, index: int) -> Tensor:
        """(C, H, W), uint8."""
        return self.images[index]


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Pictures decoded on demand, all turned to the same number of channels.

    Attributes:
        read: gives a PIL image for an index.
        labels: (N,), int64.
        channels: 1 or 3.
        where: gives the place of an image, for messages.
    """

    read: Callable[[int], Any]
    labels: Tensor
    channels: int
    where: Callable[[int], str]

    def image(self, index: int) -> Tensor:
        """(C, h, w), uint8.

        Raises:
            CorruptFileError: the picture cannot be decoded.
            InputError: there is no picture, or it has more than 8 bits a channel.
        """
        return transforms.pil_to_tensor(self._picture(index).convert("L" if self.channels == 1 else "RGB"))

    def _picture(self, index: int) -> Any:
        try:
            picture = self.read(index)
            if not isinstance(picture, Image.Image):
                came = "none" if picture is None else type(picture).__name__
                raise InputError(
                    f"{self.where(index)}: expected an image, got {came}; remove rows without one, or name the column "
                    "of images (image_column)"
                )
            picture.load()
        except AbkdError:
            raise
        except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for a damaged file
            raise CorruptFileError(f"{self.where(index)}: cannot be decoded as an image ({error})") from error
        if picture.mode.startswith(_DEEP_MODES):
            raise InputError(
                f"{self.where(index)}: expected 8 bits a channel, got PIL mode {picture.mode!r}; scale the "
                "images to 0..255 first"
            )
        return picture

    def look(self) -> tuple[int, tuple[int, int] | None]:
        """Channels of the first pictures, and their (height, width) if it is the same and small."""
        count = min(_LOOKED_AT, len(self.labels))
        pictures = [self._picture(round(k * (len(self.labels) - 1) / max(count - 1, 1))) for k in range(count)]
        channels = 1 if all(picture.mode in _GREY_MODES for picture in pictures) else 3
        sizes = {(picture.height, picture.width) for picture in pictures}
        size = sizes.pop()
        return channels, size if not sizes and max(size) <= SMALL else None


def of_array(images: Any, labels: Any, where: str) -> MemoryImages:
    """Images in memory from an array or tensor.

    Args:
        images: uint8, (N, H, W), (N, H, W, C) or (N, C, H, W), C being 1 or 3.
        labels: (N,).
        where: the name of the data, for messages.

    Raises:
        InputError: another type or shape.
    """
    pixels = torch.as_tensor(images)
    if pixels.dtype != torch.uint8:
        raise InputError(f"{where}: expected images as bytes (uint8), got {pixels.dtype}")
    if pixels.ndim == 3:
        pixels = pixels.unsqueeze(1)
    elif pixels.ndim == 4 and pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise InputError(
            f"{where}: expected grey or RGB images, (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, "
            f"got shape {tuple(pixels.shape)}"
        )
    return MemoryImages(pixels.contiguous(), torch.as_tensor(labels, dtype=torch.int64).flatten())


def into_memory(source: DecodedImages, size: tuple[int, int]) -> MemoryImages | DecodedImages:
    """Decode all images once, at `size`, where that takes less than 1 GiB."""
    shape = (len(source.labels), source.channels, *size)
    if torch.Size(shape).numel() > _MEMORY:
        return source
    images = torch.empty(shape, dtype=torch.uint8)
    for index in range(len(images)):
        image = source.image(index)
        if tuple(image.shape[-2:]) != size:
            image = transforms.resize(image, list(size), antialias=True)
        images[index] = image
    return MemoryImages(images, source.labels)
