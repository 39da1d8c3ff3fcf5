"""Residual networks for 32 x 32 images, on torchvision's blocks."""

from __future__ import annotations

import re

from torch import Tensor, nn

from abkd.image._packages import needed
from abkd.image.models.cifar._init import init_fan_out

with needed("torchvision"):
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class CifarResNet(nn.Module):
    """Three stages of basic blocks, depth = 6 n + 2 (He et al. 2016, section 4.2; with 1x1 shortcuts).

    Args:
        depth: number of weighted layers, 6 n + 2.
        widths: channels of the stem and of the three stages.
        num_classes: number of classes K.
        channels: image channels C.
    """

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(widths[0], widths[1], blocks, stride=1)
        self.layer2 = _stage(widths[1], widths[2], blocks, stride=2)
        self.layer3 = _stage(widths[2], widths[3], blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        init_fan_out(self)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) to logits (B, K)."""
        x = self.relu(self.bn1(self.conv1(pixels)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(before: int, after: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or before != after:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
    rest = [BasicBlock(after, after) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(before, after, stride, shortcut), *rest)


def resnet(depth: int, num_classes: int, channels: int) -> CifarResNet:
    """The thin family: 16, 32 and 64 channels."""
    return CifarResNet(depth, (16, 16, 32, 64), num_classes, channels)


def resnet_x4(depth: int, num_classes: int, channels: int) -> CifarResNet:
    """The wide family of CRD (Tian et al. 2020): 64, 128 and 256 channels behind a stem of 32."""
    return CifarResNet(depth, (32, 64, 128, 256), num_classes, channels)


def resnet50(num_classes: int, channels: int) -> ResNet:
    """ResNet-50 with a 3x3 stem that keeps the resolution, and no first pooling."""
    model = ResNet(Bottleneck, [3, 4, 6, 3], num_classes=num_classes)
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    init_fan_out(model.conv1)
    return model


def resnet50_key(key: str) -> str:
    """The name here of a weight of the published ResNet50."""
    return re.sub(r"^linear\.", "fc.", key.replace(".shortcut.", ".downsample."))
