"""Classifiers: preprocessing, the module of a user, names, saving and loading, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from abkd.errors import CorruptFileError, InputError
from abkd.image.models import (
    ImageClassifier,
    ModelSpec,
    as_classifier,
    build_model,
    load_model,
    read_spec,
    save_model,
)


class Recorder(nn.Module):
    """Keeps what it was given, and answers in a chosen form."""

    def __init__(self, form: str = "tensor", num_classes: int = 2) -> None:
        super().__init__()
        self.form = form
        self.weight = nn.Parameter(torch.ones(num_classes))
        self.seen = torch.empty(0)

    def forward(self, pixels: Tensor) -> Any:
        self.seen = pixels
        logits = pixels.mean((1, 2, 3)).unsqueeze(1) * self.weight
        forms = {
            "tensor": logits,
            "object": SimpleNamespace(logits=logits),
            "dict": {"logits": logits},
            "tuple": (logits,),
            "none": {"scores": logits},
        }
        return forms[self.form]


def cnn(**options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    return build_model("cnn", num_classes=3, **options)


# Preprocessing


def test_normalises_by_its_own_mean_and_deviation() -> None:
    module = Recorder()
    pixels = torch.rand(2, 3, 4, 4)
    as_classifier(module, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0), num_classes=2)(pixels)
    for channel, (mean, std) in enumerate(((0.1, 0.5), (0.2, 0.25), (0.3, 2.0))):
        torch.testing.assert_close(module.seen[:, channel], (pixels[:, channel] - mean) / std)


def test_one_number_stands_for_all_channels() -> None:
    spec = as_classifier(Recorder(), [0.5], [0.2], num_classes=2).spec
    assert spec.mean == (0.5, 0.5, 0.5)
    assert spec.std == (0.2, 0.2, 0.2)


def test_repeats_grey_and_weighs_rgb() -> None:
    module = Recorder()
    as_classifier(module, num_classes=2)(torch.full((1, 1, 2, 2), 0.25))
    assert module.seen.shape == (1, 3, 2, 2)
    assert (module.seen == 0.25).all()
    red = torch.zeros(1, 3, 2, 2)
    red[:, 0] = 1
    as_classifier(module, num_classes=2, channels=1)(red)
    torch.testing.assert_close(module.seen, torch.full((1, 1, 2, 2), 0.299))
    white = torch.ones(1, 3, 2, 2)
    as_classifier(module, num_classes=2, channels=1)(white)
    torch.testing.assert_close(module.seen, torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("size", [(6, 9), 5, [3, 3]])
def test_resizes_only_what_has_another_size(size: Any) -> None:
    module = Recorder()
    model = as_classifier(module, num_classes=2, input_size=size)
    model(torch.rand(1, 3, 12, 12))
    expected = (size, size) if isinstance(size, int) else tuple(size)
    assert module.seen.shape[-2:] == expected
    assert model.input_size == expected
    same = torch.rand(1, 3, *expected)
    model(same)
    assert torch.equal(module.seen, same)


def test_computes_in_the_type_of_the_model() -> None:
    model = cnn().to(torch.bfloat16).eval()
    assert model(torch.rand(1, 3, 8, 8)).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("form", ["tensor", "object", "dict"])
def test_takes_logits_in_each_form(form: str) -> None:
    output = as_classifier(Recorder(form), num_classes=2)(torch.rand(3, 3, 4, 4), labels=torch.tensor([0, 1, 1]))
    assert output.logits.shape == (3, 2)
    expected = nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 1]))
    torch.testing.assert_close(output["loss"], expected)
    assert as_classifier(Recorder(form), num_classes=2)(torch.rand(3, 3, 4, 4)).loss is None


@pytest.mark.parametrize("form", ["tuple", "none"])
def test_refuses_other_forms(form: str) -> None:
    with pytest.raises(InputError, match="expected a tensor of logits"):
        as_classifier(Recorder(form), num_classes=2)(torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.rand(3, 4, 4), "4 dimensions"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "floating point in"),
        (torch.rand(1, 4, 4, 4), "expected 1 channel or 3, got 4"),
    ],
)
def test_refuses_pixels_that_it_cannot_take(pixels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cnn()(pixels)


def test_refuses_a_backbone_with_other_classes() -> None:
    with pytest.raises(InputError, match=r"expected logits of shape \(1, 5\).*got \(1, 2\)"):
        as_classifier(Recorder(), num_classes=5)(torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": True}, "num_classes"),
        ({"num_classes": 2.0}, "num_classes"),
        ({"num_classes": 2, "channels": 0}, "channels"),
        ({"num_classes": 2, "mean": (0.1, 0.2)}, "mean: expected 1 value or 3"),
        ({"num_classes": 2, "std": (0.1, 0.0, 0.1)}, "std must be positive"),
        ({"num_classes": 2, "input_size": 0}, "input_size"),
        ({"num_classes": 2, "input_size": (4, 4, 4)}, "input_size"),
        ({"num_classes": 2, "input_size": (4.0, 4)}, "input_size"),
    ],
)
def test_refuses_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_classifier(Recorder(), **settings)
    with pytest.raises(InputError, match=message):
        build_model("cnn", **settings)


def test_wraps_modules_only() -> None:
    with pytest.raises(InputError, match=r"expected a torch\.nn\.Module, got str"):
        as_classifier("resnet", num_classes=2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="already is"):
        as_classifier(cnn(), num_classes=3)


# Names and options


def test_cnn_has_the_wanted_shape() -> None:
    model = cnn(channels=1, widths=[4, 6], hidden=10, grid=2)
    shapes = [tuple(weight.shape) for weight in model.parameters() if weight.ndim > 1]
    assert shapes == [(4, 1, 3, 3), (6, 4, 3, 3), (10, 24), (3, 10)]
    assert [tuple(w.shape) for w in cnn(hidden=0).parameters() if w.ndim == 2] == [(3, 256)]
    assert model(torch.rand(2, 1, 5, 7)).logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnt20", {}, "did you mean 'resnet20'"),
        ("keras:resnet", {}, "unknown model"),
        ("resnet20", {"width": 3}, "resnet20: unknown option 'width'"),
        ("cnn", {"width": (3,)}, "did you mean 'widths'"),
        ("cnn", {"widths": ()}, "widths must be"),
        ("cnn", {"widths": "ab"}, "widths must be"),
        ("cnn", {"widths": 8}, "widths must be"),
        ("cnn", {"hidden": -1}, "hidden must be"),
        ("cnn", {"grid": True}, "grid must be"),
        ("resnet20", {"pretrained": True}, "give weights=PATH"),
        ("resnet20", {"weights": "nowhere.pth"}, "expected a file, found none"),
    ],
)
def test_says_what_is_wrong_with_a_name_or_option(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(name, num_classes=3, **options)


def test_normalises_as_the_weights_were_trained() -> None:
    assert build_model("resnet8", num_classes=3).spec.mean == (0.5071, 0.4867, 0.4408)
    assert build_model("resnet8", num_classes=3, mean=(0.5,), std=(0.1,)).spec.std == (0.1, 0.1, 0.1)
    assert build_model("resnet8", num_classes=3, channels=1).spec.mean == (0.0,)
    assert cnn().spec.std == (1.0, 1.0, 1.0)


# Saving and loading


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    model = cnn(widths=(4, 6), mean=(0.5,), std=(0.25,), input_size=(12, 10))
    model.train()(torch.rand(8, 3, 12, 10))  # moves the running statistics
    folder = save_model(model, tmp_path / "student")
    loaded = load_model(folder)
    pixels = torch.rand(2, 3, 20, 20)
    assert loaded.spec == model.spec == read_spec(folder)
    assert not loaded.training
    assert torch.equal(loaded(pixels).logits, model.eval()(pixels).logits)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.json", "model.safetensors"]


def test_the_specification_is_plain_data() -> None:
    spec = ModelSpec("cnn", 3, 1, mean=(0.1,), std=(0.3,), input_size=(4, 5), options={"widths": (1, 2)})
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    with pytest.raises(InputError, match="did you mean 'channels'"):
        ModelSpec.from_dict({**spec.to_dict(), "chanels": 3})
    with pytest.raises(InputError, match="'num_classes' is missing"):
        ModelSpec.from_dict({"name": "cnn"})


def test_a_folder_is_a_name(tmp_path: Path) -> None:
    model = cnn(channels=1, mean=(0.5,))
    save_model(model, tmp_path / "teacher")
    loaded = build_model(tmp_path / "teacher", num_classes=3, channels=3)
    assert loaded.spec == model.spec
    other = build_model(str(tmp_path / "teacher"), num_classes=3, mean=(0.25,), std=(0.5,), input_size=6)
    assert (other.spec.mean, other.spec.std, other.input_size) == ((0.25,), (0.5,), (6, 6))
    assert torch.equal(other.backbone.state_dict()["fc.weight"], model.backbone.state_dict()["fc.weight"])
    with pytest.raises(InputError, match="has 3 classes, expected 10"):
        build_model(tmp_path / "teacher", num_classes=10)
    with pytest.raises(InputError, match="takes no pretrained, weights or options"):
        build_model(tmp_path / "teacher", num_classes=3, widths=(3,))


def test_a_module_of_ones_own_needs_the_module_to_load(tmp_path: Path) -> None:
    module = Recorder()
    module.weight.data = torch.tensor([2.0, 3.0])
    save_model(as_classifier(module, num_classes=2, mean=(0.5,)), tmp_path / "own")
    loaded = load_model(tmp_path / "own", backbone=Recorder())
    assert loaded.spec.name == "custom:Recorder"
    assert loaded.spec.mean == (0.5, 0.5, 0.5)
    assert torch.equal(loaded.backbone.state_dict()["weight"], torch.tensor([2.0, 3.0]))
    with pytest.raises(InputError, match="holds a module of your own"):
        load_model(tmp_path / "own")
    with pytest.raises(InputError, match="not weights of custom:Recorder"):
        load_model(tmp_path / "own", backbone=nn.Linear(2, 2))


def test_refuses_a_backbone_for_a_model_by_name(tmp_path: Path) -> None:
    save_model(cnn(), tmp_path / "m")
    with pytest.raises(InputError, match="leave out backbone"):
        load_model(tmp_path / "m", backbone=Recorder())


def test_saves_over_a_saved_model_and_over_nothing_else(tmp_path: Path) -> None:
    save_model(cnn(), tmp_path / "m")
    torch.manual_seed(5)
    model = build_model("cnn", num_classes=7)
    save_model(model, tmp_path / "m")
    assert load_model(tmp_path / "m").num_classes == 7
    (tmp_path / "m" / "notes.txt").write_text("keep me")
    with pytest.raises(InputError, match="holds other files"):
        save_model(model, tmp_path / "m")
    with pytest.raises(InputError, match="found a file"):
        save_model(model, tmp_path / "m" / "notes.txt")
    with pytest.raises(InputError, match="expected an ImageClassifier, got Recorder"):
        save_model(Recorder(), tmp_path / "n")  # type: ignore[arg-type]
    assert not (tmp_path / "n").exists()


def test_one_changed_bit_is_found(tmp_path: Path) -> None:
    folder = save_model(cnn(), tmp_path / "m")
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"model\.safetensors"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = save_model(cnn(), tmp_path / "m")
    (folder / name).unlink()
    with pytest.raises(CorruptFileError, match=name):
        load_model(folder)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder made by save_model"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="expected a folder made by save_model"):
        build_model(tmp_path, num_classes=3)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(CorruptFileError, match="specification"):
        read_spec(tmp_path)
    (tmp_path / "model.json").write_text('{"format": 9, "spec": {}}')
    with pytest.raises(InputError, match="format 9"):
        read_spec(tmp_path)
    (tmp_path / "model.json").write_text('{"format": 1, "spec": 3}')
    with pytest.raises(CorruptFileError, match="specification"):
        read_spec(tmp_path)
