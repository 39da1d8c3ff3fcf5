"""Random changes to an image that depend on nothing but (seed, epoch, index).

So a resumed run, another number of workers or another order of reading sees the same pixels.
"""

from __future__ import annotations

import math
import random
from typing import Literal, get_args

import torch
from torch import Tensor

from abkd.errors import InputError, nearest
from abkd.image._packages import needed

with needed("torchvision"):
    from torchvision.transforms.v2 import functional as transforms

Augment = Literal["none", "crop-flip", "imagenet"]
AUGMENTS: tuple[str, ...] = get_args(Augment)

_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
_CROP_SHARE = 224 / 256  # of the shorter side that the centre crop of a photograph keeps


def check_augment(value: str) -> None:
    """Refuse a name that is neither "auto" nor one of `AUGMENTS`."""
    known = ("auto", *AUGMENTS)
    if value not in known:
        raise InputError(f"augment: unknown {value!r}; {nearest(str(value), known)}")


def fit(image: Tensor, size: tuple[int, int], *, crop: bool) -> Tensor:
    """The whole image at `size`, without chance.

    Args:
        image: (C, h, w), uint8.
        size: (H, W).
        crop: for photographs: keep the proportions and cut the centre, 7/8 of the shorter side where square.
            Otherwise the image is stretched.

    Returns:
        (C, H, W), uint8.
    """
    if tuple(image.shape[-2:]) == size:
        return image
    if not crop:
        return transforms.resize(image, list(size), antialias=True)
    height, width = image.shape[-2:]
    scale = max(size[0] / height, size[1] / width) / _CROP_SHARE
    larger = [max(round(height * scale), size[0]), max(round(width * scale), size[1])]
    return transforms.center_crop(transforms.resize(image, larger, antialias=True), list(size))


def augmented(image: Tensor, size: tuple[int, int], augment: str, key: tuple[int, int, int], *, crop: bool) -> Tensor:
    """The image at `size`, changed at random.

    Args:
        image: (C, h, w), uint8.
        size: (H, W).
        augment: "none": as `fit`. "crop-flip": a black border of 1/8 of each side (4 pixels at 32), a random
            crop, a mirror image every second time (He et al. 2016, section 4.2). "imagenet": a random part of
            8 to 100 % of the area and of ratio 3/4 to 4/3, a mirror image every second time (Szegedy et al.
            2015, section 6).
        key: (seed, epoch, index), which decides everything.
        crop: see `fit`.

    Returns:
        (C, H, W), uint8.
    """
    if augment == "none":
        return fit(image, size, crop=crop)
    chance = random.Random("/".join(map(str, key)))
    if augment == "crop-flip":
        changed = _shifted(fit(image, size, crop=crop), chance)
    else:
        top, left, height, width = _part(image.shape[-2], image.shape[-1], chance)
        changed = transforms.resized_crop(image, top, left, height, width, list(size), antialias=True)
    return changed.flip(-1) if chance.random() < 0.5 else changed


def _shifted(image: Tensor, chance: random.Random) -> Tensor:
    """A crop of the image's own size out of the image with a black border."""
    channels, height, width = image.shape
    border = (max(height // 8, 1), max(width // 8, 1))
    framed = torch.zeros(channels, height + 2 * border[0], width + 2 * border[1], dtype=image.dtype)
    framed[:, border[0] : border[0] + height, border[1] : border[1] + width] = image
    top = _below(2 * border[0] + 1, chance)
    left = _below(2 * border[1] + 1, chance)
    return framed[:, top : top + height, left : left + width]


def _part(height: int, width: int, chance: random.Random) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part; the largest centred part if ten draws do not fit."""
    for _ in range(_TRIES):
        area = height * width * _between(*_AREA, chance)
        ratio = math.exp(_between(math.log(_RATIO[0]), math.log(_RATIO[1]), chance))
        part = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < part[0] <= height and 0 < part[1] <= width:
            return _below(height - part[0] + 1, chance), _below(width - part[1] + 1, chance), *part
    part = min(height, round(width / _RATIO[0])), min(width, round(height * _RATIO[1]))
    return (height - part[0]) // 2, (width - part[1]) // 2, *part


def _between(low: float, high: float, chance: random.Random) -> float:
    return low + (high - low) * chance.random()


def _below(count: int, chance: random.Random) -> int:
    return int(chance.random() * count)
