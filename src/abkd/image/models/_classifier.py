"""A backbone together with the preprocessing that it expects: what trainers and evaluation see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from abkd.errors import InputError
from abkd.image._packages import needed
from abkd.image._pixels import size_pair
from abkd.image.models._spec import ModelSpec

with needed("transformers"):
    from transformers.modeling_outputs import ImageClassifierOutput

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: how bright red, green and blue look


class ImageClassifier(nn.Module):
    """An image classifier that takes pixels in [0, 1] of any size, grey or RGB.

    Teacher and student may differ in channels, size and normalisation: each converts the same pixels itself.
    `state_dict` holds the backbone's weights only (keys `backbone.*`); mean and std are part of the `spec`.

    Attributes:
        backbone: maps normalised pixels (B, channels, H, W) to logits (B, K), or to an object or dict with
            `logits`.
        spec: what it was built from.
        config_dict: the backbone's configuration if it is a transformers model, needed to build it again.
        mean: buffer (1, channels, 1, 1).
        std: buffer (1, channels, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, spec: ModelSpec, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = spec
        self.config_dict = config
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.spec.num_classes

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) to which images are resized; None: as they come."""
        return self.spec.input_size

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Classify.

        Args:
            pixel_values: (B, C, H, W), floating point in [0, 1]; C is 1, 3, or what the backbone takes.
            labels: (B,) class indices; with them the output has the mean cross-entropy as `loss`, in nats.

        Returns:
            A transformers output with `logits` (B, K) and `loss` (None without labels).

        Raises:
            InputError: pixels of another shape or type, or a backbone that does not give (B, K) logits.
        """
        logits = _logits_of(self.backbone(self.preprocess(pixel_values)), type(self.backbone).__name__)
        expected = (pixel_values.shape[0], self.num_classes)
        if tuple(logits.shape) != expected:
            raise InputError(
                f"{self.spec.name}: expected logits of shape {expected} (images, classes), got "
                f"{tuple(logits.shape)}: num_classes must be what the backbone has been built with"
            )
        loss = None if labels is None else functional.cross_entropy(logits.float(), labels)
        # transformers annotates its outputs with torch.FloatTensor, which torch itself never returns.
        return ImageClassifierOutput(loss=cast(Any, loss), logits=cast(Any, logits))

    def preprocess(self, pixel_values: Tensor) -> Tensor:
        """Pixels (B, C, H, W) in [0, 1] as the backbone wants them: channels, size, then mean and std."""
        if pixel_values.ndim != 4:
            raise InputError(
                f"pixel_values: expected 4 dimensions (batch, channels, height, width), got shape "
                f"{tuple(pixel_values.shape)}"
            )
        if not pixel_values.is_floating_point():
            raise InputError(
                f"pixel_values: expected floating point in [0, 1], got {pixel_values.dtype}; "
                "for bytes use pixel_values.float() / 255"
            )
        pixels = _with_channels(pixel_values.to(self.mean.dtype), self.spec.channels)
        size = self.spec.input_size
        if size is not None and tuple(pixels.shape[-2:]) != size:
            pixels = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
        return (pixels - self.mean) / self.std

    def extra_repr(self) -> str:
        """The name and the preprocessing, for `repr`."""
        return f"{self.spec.name}, classes={self.num_classes}, channels={self.spec.channels}, " + (
            "any size" if self.input_size is None else f"size={self.input_size}"
        )


def as_classifier(
    module: nn.Module,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    num_classes: int,
    channels: int = 3,
    input_size: Sequence[int] | int | None = None,
) -> ImageClassifier:
    """Make a classifier of your own module.

    Args:
        module: maps (B, channels, H, W) to logits (B, num_classes): as a tensor, as an object with `.logits`,
            or as a dict with `logits`.
        mean: per channel, subtracted from the pixels in [0, 1]; None: 0.
        std: per channel, the pixels are divided by it; None: 1.
        num_classes: number of classes.
        channels: image channels that the module takes; grey and RGB images are converted.
        input_size: a side, or (height, width), to which images are resized; None: as they come.

    Raises:
        InputError: `module` is not a module, or numbers that do not fit.
    """
    if not isinstance(module, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    if isinstance(module, ImageClassifier):
        raise InputError("module: this already is an ImageClassifier; use it as it is")
    spec = ModelSpec(
        name=f"custom:{type(module).__name__}",
        num_classes=num_classes,
        channels=channels,
        mean=tuple(mean or ()),
        std=tuple(std or ()),
        input_size=size_pair("input_size", input_size),
    )
    return ImageClassifier(module, spec)


def _with_channels(pixels: Tensor, channels: int) -> Tensor:
    """Grey repeated to RGB, RGB weighted to grey, or as it is."""
    came = pixels.shape[1]
    if came == channels:
        return pixels
    if came == 1:
        return pixels.expand(-1, channels, -1, -1)
    if came == 3 and channels == 1:
        weights = torch.tensor(_LUMA, dtype=pixels.dtype, device=pixels.device)
        return (pixels * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    raise InputError(
        f"pixel_values: expected 1 channel or {channels}, got {came}; convert the images, or build the model "
        f"with channels={came}"
    )


def _logits_of(output: Any, origin: str) -> Tensor:
    if isinstance(output, Mapping):
        logits: Any = cast("Mapping[str, Any]", output).get("logits")
    else:
        logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise InputError(
            f"{origin}: expected a tensor of logits, an object with .logits or a dict with 'logits', got "
            f"{type(output).__name__}"
        )
    return logits
