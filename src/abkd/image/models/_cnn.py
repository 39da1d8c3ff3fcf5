"""A plain convolutional network for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from abkd.errors import InputError


class SmallCNN(nn.Module):
    """Blocks of convolution, batch norm, ReLU and 2x2 pooling, then one hidden layer and the classes.

    Args:
        num_classes: number of classes K.
        channels: image channels C.
        widths: output channels of each block; each block halves height and width.
        hidden: units of the hidden layer; 0 goes from the features to the classes directly.
        grid: the last features are averaged over a grid x grid raster, so that any image size fits.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        *,
        widths: Sequence[int] = (8, 16),
        hidden: int = 32,
        grid: int = 4,
    ) -> None:
        super().__init__()
        _check(widths, hidden, grid)
        blocks: list[nn.Module] = []
        for before, after in zip((channels, *widths[:-1]), widths, strict=True):
            blocks += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        self.features = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(grid), nn.Flatten())
        width = widths[-1] * grid * grid
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(inplace=True)) if hidden else nn.Identity()
        self.fc = nn.Linear(hidden or width, num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) to logits (B, K)."""
        return self.fc(self.hidden(self.features(pixels)))


def _check(widths: Sequence[int], hidden: int, grid: int) -> None:
    numbers = isinstance(widths, Sequence) and not isinstance(widths, str)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not numbers or not widths or not all(_whole(width, 1) for width in widths):
        raise InputError(f"cnn: widths must be a list of numbers of at least 1, got {widths!r}")
    if not _whole(hidden, 0):
        raise InputError(f"cnn: hidden must be a whole number of at least 0, got {hidden!r}")
    if not _whole(grid, 1):
        raise InputError(f"cnn: grid must be a whole number of at least 1, got {grid!r}")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
