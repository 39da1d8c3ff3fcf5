"""MobileNetV2 (Sandler et al. 2018) at half width, as CRD uses it for 32 x 32 images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from abkd.image.models.cifar._init import init_fan_out, init_linear

# expansion, channels at full width, blocks, stride of the first block (Table 2, strides for small images)
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_LAST = 1280


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection; added to the input where the shapes agree."""

    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.conv = nn.Sequential(
            *_unit(before, wide, kernel=1),
            *_unit(wide, wide, kernel=3, stride=stride, groups=wide),
            nn.Conv2d(wide, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H / stride, W / stride)."""
        return x + self.conv(x) if self.residual else self.conv(x)


class CifarMobileNetV2(nn.Module):
    """Seven stages of inverted residuals.

    Args:
        num_classes: number of classes K.
        channels: image channels C.
        width: factor on the channels of all stages.
    """

    def __init__(self, num_classes: int, channels: int, width: float = 0.5) -> None:
        super().__init__()
        before = int(32 * width)
        self.conv1 = nn.Sequential(*_unit(channels, before, kernel=3, stride=2))
        stages: list[nn.Sequential] = []
        for expansion, full, blocks, stride in _STAGES:
            after = int(full * width)
            first = InvertedResidual(before, after, stride, expansion)
            rest = [InvertedResidual(after, after, 1, expansion) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(first, *rest))
            before = after
        self.blocks = nn.Sequential(*stages)
        self.conv2 = nn.Sequential(*_unit(before, _LAST, kernel=1))
        self.classifier = nn.Sequential(nn.Linear(_LAST, num_classes))
        init_fan_out(self)
        init_linear(self, std=0.01)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) to logits (B, K)."""
        x = self.conv2(self.blocks(self.conv1(pixels)))
        return self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def _unit(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)
