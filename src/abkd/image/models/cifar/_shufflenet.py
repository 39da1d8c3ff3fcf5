"""ShuffleNetV1 (Zhang et al. 2018) and ShuffleNetV2 (Ma et al. 2018) for 32 x 32 images."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from abkd.image._packages import needed

with needed("torchvision"):
    from torchvision.models.shufflenetv2 import InvertedResidual, channel_shuffle

_STEM = 24


class ShuffleUnit(nn.Module):
    """Grouped 1x1, channel shuffle, 3x3 depthwise, grouped 1x1 (ShuffleNetV1, figure 2).

    With stride 1 the result is added to the input; with stride 2 it is put beside the averaged input, so that
    the unit gives `before + made` channels.
    """

    def __init__(self, before: int, made: int, stride: int, groups: int, mid: int) -> None:
        super().__init__()
        self.stride = stride
        self.groups = 1 if before == _STEM else groups  # the first unit has too few channels to group
        self.conv1 = nn.Conv2d(before, mid, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, padding=1, groups=mid, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, made, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(made)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, before, H, W), or at stride 2 to (B, before + made, H / 2, W / 2)."""
        y = channel_shuffle(functional.relu(self.bn1(self.conv1(x))), self.groups)
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.stride == 1:
            return functional.relu(x + y)
        return functional.relu(torch.cat([y, functional.avg_pool2d(x, 3, stride=2, padding=1)], dim=1))


class CifarShuffleNetV1(nn.Module):
    """Three stages of shuffle units with three groups.

    Args:
        num_classes: number of classes K.
        channels: image channels C.
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.layer1 = _stage_v1(_STEM, 240, units=4)
        self.layer2 = _stage_v1(240, 480, units=8)
        self.layer3 = _stage_v1(480, 960, units=4)
        self.linear = nn.Linear(960, num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) to logits (B, K)."""
        x = functional.relu(self.bn1(self.conv1(pixels)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def _stage_v1(before: int, after: int, units: int, groups: int = 3) -> nn.Sequential:
    made = after - before
    first = ShuffleUnit(before, made, stride=2, groups=groups, mid=made // 4)
    rest = [ShuffleUnit(after, after, stride=1, groups=groups, mid=after // 4) for _ in range(units - 1)]
    return nn.Sequential(first, *rest)


class CifarShuffleNetV2(nn.Module):
    """Three stages of torchvision's ShuffleNetV2 blocks (width 1) behind a 1x1 stem.

    Args:
        num_classes: number of classes K.
        channels: image channels C.
        widths: channels after the three stages and of the last convolution.
    """

    def __init__(self, num_classes: int, channels: int, widths: Sequence[int] = (116, 232, 464, 1024)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.layer1 = _stage_v2(_STEM, widths[0], blocks=4)
        self.layer2 = _stage_v2(widths[0], widths[1], blocks=8)
        self.layer3 = _stage_v2(widths[1], widths[2], blocks=4)
        self.conv2 = nn.Conv2d(widths[2], widths[3], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[3])
        self.linear = nn.Linear(widths[3], num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) to logits (B, K)."""
        x = functional.relu(self.bn1(self.conv1(pixels)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def _stage_v2(before: int, after: int, blocks: int) -> nn.Sequential:
    rest = [InvertedResidual(after, after, 1) for _ in range(blocks - 1)]
    return nn.Sequential(InvertedResidual(before, after, 2), *rest)


# Published names number the layers of a block through; torchvision's blocks hold them in two branches.
_FIRST = ("branch1.0", "branch1.1", "branch1.2", "branch1.3", "branch2.0", "branch2.1")
_BLOCK = ("branch2.0", "branch2.1", "branch2.3", "branch2.4", "branch2.5", "branch2.6")
_PUBLISHED = re.compile(r"^(layer\d)\.(\d+)\.(conv|bn)(\d)\.")


def shufflenet_v2_key(key: str) -> str:
    """The name here of a weight of the published ShuffleNetV2."""
    found = _PUBLISHED.match(key)
    if found is None:
        return key
    stage, block, kind, number = found.groups()
    places = (*_FIRST, *_BLOCK[2:]) if block == "0" else _BLOCK
    place = places[2 * (int(number) - 1) + (kind == "bn")]
    return f"{stage}.{block}.{place}." + key[found.end() :]
