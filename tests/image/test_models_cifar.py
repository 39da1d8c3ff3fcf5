"""The networks for small images: published sizes, published parameter names, any image size."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from abkd.image.models import build_model, model_names
from abkd.image.models.cifar import NAMES, cifar_model, published_key

# Millions of parameters at 100 classes, as published with CRD (Tian et al. 2020), and exact counts.
PUBLISHED = {
    "resnet8": (0.08, 83892),
    "resnet14": (0.18, 181108),
    "resnet20": (0.28, 278324),
    "resnet32": (0.47, 472756),
    "resnet44": (0.67, 667188),
    "resnet56": (0.86, 861620),
    "resnet110": (1.74, 1736564),
    "resnet8x4": (1.23, 1233540),
    "resnet32x4": (7.43, 7433860),
    "ResNet50": (23.71, 23705252),
    "wrn_16_1": (0.18, 180916),
    "wrn_16_2": (0.70, 703284),
    "wrn_40_1": (0.57, 569780),
    "wrn_40_2": (2.26, 2255156),
    "vgg8": (3.97, 3965028),
    "vgg11": (9.28, 9277284),
    "vgg13": (9.46, 9462180),
    "vgg16": (14.77, 14774436),
    "vgg19": (20.09, 20086692),
    "MobileNetV2": (0.81, 812836),
    "ShuffleNetV1": (0.95, 949258),
    "ShuffleNetV2": (1.36, 1355528),
}


def on_meta(name: str, num_classes: int = 100, channels: int = 3) -> nn.Module:
    with torch.device("meta"):
        return cifar_model(name, num_classes, channels)


def test_every_network_is_listed() -> None:
    assert set(PUBLISHED) == set(NAMES)
    assert set(model_names()) == {*NAMES, "cnn"}


@pytest.mark.parametrize("name", NAMES)
def test_has_the_published_number_of_parameters(name: str) -> None:
    millions, exact = PUBLISHED[name]
    count = sum(weight.numel() for weight in on_meta(name).parameters())
    assert count == exact
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28), (3, 64), (1, 8)])
def test_takes_any_small_image(name: str, channels: int, size: int) -> None:
    model = on_meta(name, 10, channels)
    assert model(torch.empty(2, channels, size, size, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "wrn_16_2", "vgg8", "MobileNetV2"])
def test_learns_from_every_weight(name: str) -> None:
    torch.manual_seed(0)
    model = cifar_model(name, 4, 3)
    model(torch.rand(4, 3, 32, 32)).log_softmax(-1)[:, 0].sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize(
    ("name", "strides"), [("resnet20", 4), ("wrn_16_2", 4), ("vgg8", 8), ("MobileNetV2", 16), ("ShuffleNetV1", 8)]
)
def test_reduces_the_resolution_as_published(name: str, strides: int) -> None:
    sizes: list[int] = []
    model = on_meta(name)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_hook(lambda *call: sizes.append(call[2].shape[-1]))
    model(torch.empty(1, 3, 32, 32, device="meta"))
    assert sizes[-1] == 32 // strides


def published_names(name: str) -> set[str]:
    """The names in public checkpoints, written down from the published definitions."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def layer(prefix: str, number: int = 1) -> set[str]:
        return {f"{prefix}conv{number}.weight"} | {f"{prefix}bn{number}.{part}" for part in norm}

    head = {"fc.weight", "fc.bias"}
    names = layer("")
    if name == "resnet8x4":
        for stage in (1, 2, 3):
            names |= layer(f"layer{stage}.0.", 1) | layer(f"layer{stage}.0.", 2)
            names |= {f"layer{stage}.0.downsample.0.weight"}
            names |= {f"layer{stage}.0.downsample.1.{part}" for part in norm}
        return names | head
    if name == "wrn_16_1":
        for stage in (1, 2, 3):
            for block in (0, 1):
                prefix = f"block{stage}.layer.{block}."
                names |= layer(prefix, 1) | layer(prefix, 2)
            if stage > 1:
                names |= {f"block{stage}.layer.0.convShortcut.weight"}
        return names | head
    if name == "ResNet50":
        for stage, blocks in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True):
            for block in range(blocks):
                for number in (1, 2, 3):
                    names |= layer(f"layer{stage}.{block}.", number)
            names |= {f"layer{stage}.0.shortcut.0.weight"}
            names |= {f"layer{stage}.0.shortcut.1.{part}" for part in norm}
    if name == "ShuffleNetV2":
        names |= layer("", 2)
        for stage, blocks in zip((1, 2, 3), (4, 8, 4), strict=True):
            for block in range(blocks):
                for number in range(1, 6 if block == 0 else 4):
                    names |= layer(f"layer{stage}.{block}.", number)
    if name == "ShuffleNetV1":
        for stage, blocks in zip((1, 2, 3), (4, 8, 4), strict=True):
            for block in range(blocks):
                for number in (1, 2, 3):
                    names |= layer(f"layer{stage}.{block}.", number)
    return names | {"linear.weight", "linear.bias"}


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_1", "ResNet50", "ShuffleNetV1", "ShuffleNetV2"])
def test_knows_the_published_parameter_names(name: str) -> None:
    translate = published_key(name)
    assert {translate(key) for key in published_names(name)} == set(on_meta(name).state_dict())


def test_vgg_and_mobilenet_number_their_layers_as_published() -> None:
    vgg = {key for key in on_meta("vgg13").state_dict() if key.endswith("weight")}
    assert vgg == {
        *(f"block{block}.{layer}.weight" for block in range(5) for layer in (0, 1, 3, 4)),
        "classifier.weight",
    }
    mobile = on_meta("MobileNetV2").state_dict()
    assert {"conv1.0.weight", "conv2.1.bias", "blocks.6.0.conv.7.weight", "classifier.0.bias"} <= set(mobile)
    assert max(int(re.findall(r"conv\.(\d)", key)[0]) for key in mobile if "blocks" in key) == 7


def test_shufflenet_v2_translation_keeps_each_layer_in_its_place() -> None:
    own = on_meta("ShuffleNetV2").state_dict()
    translate = published_key("ShuffleNetV2")
    assert own[translate("layer1.0.conv1.weight")].shape == (24, 1, 3, 3)  # depthwise, left branch
    assert own[translate("layer1.0.conv3.weight")].shape == (58, 24, 1, 1)  # first of the right branch
    assert own[translate("layer1.0.conv4.weight")].shape == (58, 1, 3, 3)
    assert own[translate("layer1.1.conv2.weight")].shape == (58, 1, 3, 3)
    assert translate("layer2.3.bn3.running_var") == "layer2.3.branch2.6.running_var"


def test_names_are_found_in_any_case() -> None:
    assert build_model("RESNET8", num_classes=3).spec.name == "resnet8"
    assert build_model("shufflenetv2", num_classes=3).spec.name == "ShuffleNetV2"


def test_first_weights_follow_the_seed() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(torch.cat([w.flatten() for w in cifar_model("resnet8", 4, 3).parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
