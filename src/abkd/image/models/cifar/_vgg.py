"""VGG networks with batch norm (Simonyan and Zisserman 2015), and the shallow vgg8 of CRD."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from abkd.image.models.cifar._init import init_fan_out, init_linear

_WIDTHS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {  # in each of the five blocks
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class CifarVGG(nn.Module):
    """Five blocks of 3x3 convolutions; one linear layer on the averaged features.

    The first three blocks are followed by 2x2 pooling. The fourth is too where the image is at least 64 high.

    Args:
        depth: 8, 11, 13, 16 or 19.
        num_classes: number of classes K.
        channels: image channels C.
    """

    def __init__(self, depth: int, num_classes: int, channels: int) -> None:
        super().__init__()
        before = (channels, *_WIDTHS[:-1])
        counts = _CONVOLUTIONS[depth]
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            _block(*arguments) for arguments in zip(before, _WIDTHS, counts, strict=True)
        )
        self.classifier = nn.Linear(_WIDTHS[-1], num_classes)
        init_fan_out(self)
        init_linear(self, std=0.01)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) to logits (B, K)."""
        x = pixels
        for block in (self.block0, self.block1, self.block2):
            x = functional.max_pool2d(functional.relu(block(x)), 2, ceil_mode=True)
        x = functional.relu(self.block3(x))
        if pixels.shape[-2] >= 64:
            x = functional.max_pool2d(x, 2)
        x = functional.relu(self.block4(x))
        return self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def _block(before: int, after: int, convolutions: int) -> nn.Sequential:
    """Convolution, batch norm and ReLU, repeated; the last ReLU is left to the caller."""
    layers: list[nn.Module] = []
    for number in range(convolutions):
        layers += [
            nn.Conv2d(before if number == 0 else after, after, 3, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers[:-1])
