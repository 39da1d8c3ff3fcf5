"""Wide residual networks (Zagoruyko and Komodakis 2016)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

from abkd.image.models.cifar._init import init_fan_out


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; a 1x1 shortcut where the width changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        # Named as in published checkpoints.
        self.convShortcut = None if before == after else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H / stride, W / stride)."""
        active = functional.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        return shortcut + self.conv2(functional.relu(self.bn2(self.conv1(active))))


class WideResNet(nn.Module):
    """Three stages of pre-activation blocks, depth = 6 n + 4.

    Args:
        depth: number of weighted layers, 6 n + 4.
        widen: factor on the widths 16, 32 and 64.
        num_classes: number of classes K.
        channels: image channels C.
    """

    def __init__(self, depth: int, widen: int, num_classes: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = (16, 16 * widen, 32 * widen, 64 * widen)
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.block1 = _stage(widths[0], widths[1], blocks, stride=1)
        self.block2 = _stage(widths[1], widths[2], blocks, stride=2)
        self.block3 = _stage(widths[2], widths[3], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        init_fan_out(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) to logits (B, K)."""
        x = self.block3(self.block2(self.block1(self.conv1(pixels))))
        x = functional.relu(self.bn1(x))
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def _stage(before: int, after: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [PreActivationBlock(after, after, 1) for _ in range(blocks - 1)]
    layer = nn.Sequential(PreActivationBlock(before, after, stride), *rest)
    return nn.Sequential(OrderedDict[str, nn.Module](layer=layer))
