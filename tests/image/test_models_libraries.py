"""timm, torchvision and transformers classifiers, small and untrained, so that nothing is fetched."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch

from abkd.errors import InputError, MissingPackageError
from abkd.image.models import build_model, load_model, save_model

TINY_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 8,
}
CASES = [
    ("timm:test_vit", {"img_size": 32}, 3, (32, 32)),
    ("timm:test_resnet", {}, 3, None),
    ("torchvision:squeezenet1_1", {}, 3, None),
    ("torchvision:shufflenet_v2_x0_5", {}, 3, None),
    ("hf:vit", TINY_VIT, 3, (16, 16)),
    ("hf:resnet", {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]}, 3, None),
]


@pytest.mark.parametrize(("name", "options", "channels", "size"), CASES, ids=[case[0] for case in CASES])
def test_builds_saves_and_loads(tmp_path: Path, name: str, options: Any, channels: int, size: Any) -> None:
    torch.manual_seed(0)
    model = build_model(name, num_classes=4, **options).eval()
    assert (model.spec.channels, model.input_size) == (channels, size)
    pixels = torch.rand(2, 1, 40, 40)
    logits = model(pixels).logits
    assert logits.shape == (2, 4)
    loaded = load_model(save_model(model, tmp_path / "m"))
    assert loaded.spec == model.spec
    assert torch.equal(loaded(pixels).logits, logits)


def test_grey_backbones_where_the_library_has_them() -> None:
    assert build_model("timm:test_resnet", num_classes=2, channels=1).spec.channels == 1
    assert build_model("hf:vit", num_classes=2, channels=1, **TINY_VIT).spec.channels == 1
    assert build_model("torchvision:squeezenet1_1", num_classes=2, channels=1).spec.channels == 3


def test_preprocessing_is_the_library_s_unless_given() -> None:
    model = build_model("timm:test_vit", num_classes=2, img_size=32)
    assert model.spec.mean == (0.5, 0.5, 0.5)
    model = build_model("timm:test_vit", num_classes=2, img_size=32, mean=(0.1,), std=(0.2,))
    assert (model.spec.mean, model.spec.std) == ((0.1, 0.1, 0.1), (0.2, 0.2, 0.2))


def test_auxiliary_heads_are_left_out() -> None:
    with torch.device("meta"):
        model = build_model("torchvision:googlenet", num_classes=3)
    assert not any(key.startswith("aux") for key in model.backbone.state_dict())
    assert model(torch.empty(2, 3, 64, 64, device="meta")).logits.shape == (2, 3)


def test_an_inception_with_published_weights_keeps_its_own_normalisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    name = "torchvision:googlenet"
    published = build_model(name, num_classes=3, init_weights=False).backbone.state_dict()
    weights = models.get_model_weights("googlenet").DEFAULT
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: published)
    model = build_model(name, num_classes=3, pretrained=True).eval()
    loaded = load_model(save_model(model, tmp_path / "m"))
    assert model.backbone.transform_input is loaded.backbone.transform_input is True
    assert loaded.spec == model.spec


def test_transformers_folder_with_its_weights(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    trained = ViTForImageClassification(ViTConfig(**TINY_VIT, num_labels=4)).eval()
    trained.save_pretrained(tmp_path)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    model = build_model(f"hf:{tmp_path}", num_classes=4, pretrained=True).eval()
    assert model.spec.mean == (0.1, 0.2, 0.3)
    assert model.spec.std == (0.4, 0.5, 0.6)
    pixels = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(model(pixels).logits, trained(model.preprocess(pixels)).logits)
    fresh = build_model(f"hf:{tmp_path}", num_classes=6, pretrained=True)
    assert fresh(pixels).logits.shape == (1, 6)
    untrained = build_model(f"hf:{tmp_path}", num_classes=4, hidden_dropout_prob=0.5)
    assert not torch.equal(untrained.eval()(pixels).logits, model(pixels).logits)
    for options in ({"hidden_size": 32}, {"num_hidden_layers": 2}):
        with pytest.raises(InputError, match=r"published weights have no .*; leave out the options"):
            build_model(f"hf:{tmp_path}", num_classes=4, pretrained=True, **options)


def test_weights_published_in_half_precision_are_trained_in_single(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    ViTForImageClassification(ViTConfig(**TINY_VIT, num_labels=4)).bfloat16().save_pretrained(tmp_path)
    for pretrained in (True, False):
        model = build_model(f"hf:{tmp_path}", num_classes=4, pretrained=pretrained)
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_torchvision_weights_with_another_head(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    torch.manual_seed(1)
    published = models.get_model("shufflenet_v2_x0_5").state_dict()
    weights = models.get_model_weights("shufflenet_v2_x0_5").DEFAULT
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: published)
    model = build_model("torchvision:shufflenet_v2_x0_5", num_classes=4, pretrained=True)
    own = model.backbone.state_dict()
    assert all(torch.equal(own[key], value) for key, value in published.items() if not key.startswith("fc."))
    assert own["fc.weight"].shape[0] == 4
    assert model.spec.mean == (0.485, 0.456, 0.406)
    assert model.input_size == (224, 224)
    whole = build_model("torchvision:shufflenet_v2_x0_5", num_classes=1000, pretrained=True)
    assert torch.equal(whole.backbone.state_dict()["fc.weight"], published["fc.weight"])
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: {})
    with pytest.raises(InputError, match="published weights have no"):
        build_model("torchvision:shufflenet_v2_x0_5", num_classes=4, pretrained=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:resnt18", {}, "did you mean 'resnet18'"),
        ("timm:test_resnet", {"colour": 3}, "unexpected keyword argument 'colour'"),
        ("torchvision:resnt18", {}, "did you mean 'resnet18'"),
        ("torchvision:fcn_resnet50", {}, "no classifier of this name"),
        ("torchvision:resnet18", {"colour": 3}, "unexpected keyword argument 'colour'"),
        ("hf:vitt", {}, "did you mean 'vit'"),
        ("hf:vit", {"hiden_size": 16}, "did you mean 'hidden_size'"),
        ("hf:vit", {"hidden_act": "bend"}, "hf:vit: cannot be built"),
        ("hf:bert", {}, "hf:bert: cannot be built"),
        ("hf:vit", {"pretrained": True}, "has no weights"),
    ],
)
def test_says_what_is_wrong(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(name, num_classes=3, **options)


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    weights = models.get_model_weights("resnet18").DEFAULT
    monkeypatch.setattr(type(weights), "get_state_dict", unreachable)
    with pytest.raises(InputError, match=r"no route to host.*check the name and the connection"):
        build_model("torchvision:resnet18", num_classes=3, pretrained=True)


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:resnet18"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    package = name.split(":")[0]
    real = builtins.__import__

    def without(wanted: str, *args: Any, **kwargs: Any) -> Any:
        if wanted.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r'pip install "abkd\[image\]"'):
        build_model(name, num_classes=3)
