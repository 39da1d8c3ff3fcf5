"""Checkpoints from elsewhere: the public CIFAR zoo's form, safetensors, and files that must be refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from abkd.errors import CorruptFileError, InputError
from abkd.image.models import build_model, load_weights
from abkd.image.models.cifar import cifar_model


def state(name: str = "resnet8", num_classes: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(3)
    weights = cifar_model(name, num_classes, 3).state_dict()
    return {key: torch.rand_like(value) if value.is_floating_point() else value for key, value in weights.items()}


def same(model: Any, weights: dict[str, Tensor]) -> bool:
    own = model.backbone.state_dict()
    return all(torch.equal(own[key], value) for key, value in weights.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"model": weights, "epoch": 240, "accuracy": torch.tensor(72.3)},
        lambda weights: {"opt": argparse.Namespace(model="resnet8", lr=0.05), "model": weights},
        lambda weights: {"state_dict": {f"module.{key}": value for key, value in weights.items()}},
    ],
    ids=["bare", "published", "with-options", "data-parallel"],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_reads_checkpoints_of_the_public_zoo(tmp_path: Path, wrap: Any, legacy: bool) -> None:
    weights = state()
    path = tmp_path / "ckpt_epoch_240.pth"
    torch.save(wrap(weights), path, _use_new_zipfile_serialization=not legacy)
    assert same(build_model("resnet8", num_classes=5, weights=path), weights)


def test_reads_safetensors(tmp_path: Path) -> None:
    weights = state()
    save_file(weights, tmp_path / "w.safetensors")
    model = build_model("resnet8", num_classes=5)
    load_weights(model, str(tmp_path / "w.safetensors"))
    assert same(model, weights)


def test_translates_published_names(tmp_path: Path) -> None:
    weights = state("ResNet50")
    published = {
        key.replace(".downsample.", ".shortcut.").replace("fc.", "linear."): value for key, value in weights.items()
    }
    assert set(published) != set(weights)
    torch.save({"model": published}, tmp_path / "resnet50.pth")
    assert same(build_model("ResNet50", num_classes=5, weights=tmp_path / "resnet50.pth"), weights)


def test_old_checkpoints_lack_the_batch_counters(tmp_path: Path) -> None:
    weights = {key: value for key, value in state().items() if not key.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "old.pth")
    assert same(build_model("resnet8", num_classes=5, weights=tmp_path / "old.pth"), weights)


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("resnet8", 7, r"another shape, first 'fc.weight': expected \(7, 64\), found \(5, 64\)"),
        ("resnet14", 5, "missing, first 'layer1.1.conv1.weight'"),
        ("vgg8", 5, "unknown, first 'conv1.weight'"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, name: str, classes: int, message: str) -> None:
    torch.save({"model": state()}, tmp_path / "w.pth")
    torch.manual_seed(0)
    model = build_model(name, num_classes=classes)
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    with pytest.raises(InputError, match=message):
        load_weights(model, tmp_path / "w.pth")
    assert same(model, before)


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("code from a checkpoint ran",)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": state(), "extra": Harmful()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="could run code when read"):
        build_model("resnet8", num_classes=5, weights=tmp_path / "w.pth")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": 1}}, {}, {"epoch": 3}])
def test_files_without_weights_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="expected a state dict"):
        build_model("resnet8", num_classes=5, weights=tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_file_cut_short_is_named(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"model": state()}, path)
    else:
        save_file(state(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(CorruptFileError, match=path.name):
        build_model("resnet8", num_classes=5, weights=path)


def test_other_files_are_not_weights(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"not a checkpoint at all" * 20)
    with pytest.raises(CorruptFileError, match="cannot be read as weights"):
        build_model("resnet8", num_classes=5, weights=tmp_path / "w.pth")
