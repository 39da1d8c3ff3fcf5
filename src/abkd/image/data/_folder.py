"""Folders of images, one folder a class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from abkd.errors import InputError
from abkd.image._packages import needed
from abkd.image.data._raw import Raw, assemble
from abkd.image.data._sources import DecodedImages, MemoryImages

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}


def load_folder(root: Path) -> Raw:
    """Images in class folders.

    Args:
        root: holds `train/` and perhaps `val/` (or `validation/`) and `test/`, each with one folder a class,
            of the same names; or the class folders themselves, of which a test split is held out.

    Raises:
        InputError: no such folder, no class folders, a class without images, or splits with other classes.
    """
    if not root.is_dir():
        raise InputError(
            f"{root}: expected a folder with train/ and test/, each with one folder of images a class; "
            "found no such folder"
        )
    places = _places(root)
    classes = {split: _classes(place) for split, place in places.items()}
    for split, names in classes.items():
        _check_same(places["train"], classes["train"], places[split], names)
    splits: dict[str, DecodedImages | MemoryImages] = {
        split: _read(place, classes["train"]) for split, place in places.items()
    }
    return assemble(str(root), splits, tuple(classes["train"]))


def _places(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split, names in _SPLITS.items():
        here = [root / name for name in names if (root / name).is_dir()]
        if len(here) > 1:
            raise InputError(f"{root}: expected one {split} folder, found {here[0].name} and {here[1].name}")
        if here:
            found[split] = here[0]
    if found and "train" not in found:
        others = ", ".join(place.name for place in found.values())
        raise InputError(f"{root}: expected train/ beside {others}; found no training images")
    return found or {"train": root}


def _classes(place: Path) -> list[str]:
    names = sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise InputError(f"{place}: expected one folder of images a class, found no folders")
    return names


def _check_same(train: Path, expected: list[str], place: Path, names: list[str]) -> None:
    missing = sorted(set(expected) - set(names))
    extra = sorted(set(names) - set(expected))
    if missing or extra:
        faults = [f"{place} lacks {', '.join(missing[:3])}"] if missing else []
        faults += [f"{train} lacks {', '.join(extra[:3])}"] if extra else []
        raise InputError(
            f"splits with different class folders ({len(missing) + len(extra)} in one only): {'; '.join(faults)}"
        )


def _read(place: Path, classes: list[str]) -> DecodedImages:
    with needed("torchvision"):
        from torchvision.datasets.folder import IMG_EXTENSIONS

    suffixes = set(IMG_EXTENSIONS)
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        here = sorted(
            path
            for path in (place / name).rglob("*")
            if path.suffix.lower() in suffixes and not path.name.startswith(".")
        )
        if not here:
            raise InputError(
                f"{place / name}: expected images ({', '.join(IMG_EXTENSIONS)}), found none; "
                "remove the folder from every split if the class is not wanted"
            )
        files += here
        labels += [label] * len(here)
    pictures = _Files(tuple(files))
    return DecodedImages(pictures, torch.tensor(labels), channels=3, where=pictures.place)


@dataclass(frozen=True)
class _Files:
    files: tuple[Path, ...]

    def __call__(self, index: int) -> Any:
        with needed("PIL"):
            from PIL import Image

        with self.files[index].open("rb") as file:
            picture = Image.open(file)
            picture.load()
        return picture

    def place(self, index: int) -> str:
        """The path of an image."""
        return str(self.files[index])
