"""The networks for small images that the distillation papers compare on, by their published names.

Parameter names are those of the public checkpoints of CRD (Tian et al. 2020) and its successors, or are
translated to them by `published_key`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

NAMES = (
    *(f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)),
    "resnet8x4",
    "resnet32x4",
    "ResNet50",
    *("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"),
    *(f"vgg{depth}" for depth in (8, 11, 13, 16, 19)),
    "MobileNetV2",
    "ShuffleNetV1",
    "ShuffleNetV2",
)

__all__ = ["NAMES", "cifar_model", "published_key"]


def cifar_model(name: str, num_classes: int, channels: int) -> nn.Module:
    """The network called `name`, one of `NAMES`: pixels (B, channels, H, W) to logits (B, num_classes)."""
    return _builder(name)(num_classes=num_classes, channels=channels)


def _builder(name: str) -> Callable[..., nn.Module]:
    if name.startswith("wrn_"):
        from abkd.image.models.cifar._wrn import WideResNet

        depth, widen = name.split("_")[1:]
        return partial(WideResNet, int(depth), int(widen))
    if name.startswith("vgg"):
        from abkd.image.models.cifar._vgg import CifarVGG

        return partial(CifarVGG, int(name[3:]))
    if name == "MobileNetV2":
        from abkd.image.models.cifar._mobilenet import CifarMobileNetV2

        return CifarMobileNetV2
    if name.startswith("ShuffleNet"):
        from abkd.image.models.cifar import _shufflenet

        return _shufflenet.CifarShuffleNetV1 if name.endswith("V1") else _shufflenet.CifarShuffleNetV2
    from abkd.image.models.cifar import _resnet

    if name == "ResNet50":
        return _resnet.resnet50
    if name.endswith("x4"):
        return partial(_resnet.resnet_x4, int(name[len("resnet") : -len("x4")]))
    return partial(_resnet.resnet, int(name[len("resnet") :]))


def published_key(name: str) -> Callable[[str], str]:
    """How the network `name` translates a weight's name in public checkpoints to its own."""
    if name == "ResNet50":
        from abkd.image.models.cifar._resnet import resnet50_key

        return resnet50_key
    if name == "ShuffleNetV2":
        from abkd.image.models.cifar._shufflenet import shufflenet_v2_key

        return shufflenet_v2_key
    return str
