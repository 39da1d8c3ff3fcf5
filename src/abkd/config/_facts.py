"""What can be known of data and models without loading them: names, classes, sizes, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from abkd.config._faults import fault_of
from abkd.config._image import Data
from abkd.errors import AbkdError, InputError, nearest

# Classes, channels and (height, width) of the data sets that are known by name.
_KNOWN: dict[str, tuple[int, int, tuple[int, int]]] = {
    "mnist-5k": (10, 1, (28, 28)),
    "digits": (10, 1, (8, 8)),
    "cifar10": (10, 3, (32, 32)),
    "cifar100": (100, 3, (32, 32)),
    "mnist": (10, 1, (28, 28)),
    "fashionmnist": (10, 1, (28, 28)),
    "svhn": (10, 3, (32, 32)),
    "stl10": (10, 3, (96, 96)),
    "food101": (101, 3, (224, 224)),
    "eurosat": (10, 3, (64, 64)),
    "imagenet": (1000, 3, (224, 224)),
}
_WITHOUT_ROOT = ("mnist-5k", "digits")
_BUILDING = (TypeError, ValueError, RuntimeError)


def image_facts(data: Data) -> tuple[int, int, tuple[int, int]] | None:
    """Classes, channels and (height, width), where the name alone or the class folders tell."""
    place = _folder(data)
    classes = _class_folders(place) if place is not None and place.is_dir() else []
    known = (len(classes), 3, (224, 224)) if classes else _KNOWN.get(data.name.lower())
    if known is None:
        return None
    size = data.image_size
    if size is None:
        return known
    return known[0], known[1], (size, size) if isinstance(size, int) else size


def class_count(data: Data) -> int | None:
    """The number of classes, where it can be known without loading."""
    facts = image_facts(data)
    return facts[0] if facts else None


def data_problem(data: Data) -> str | None:
    """What is wrong with the name or the place of the data, or None."""
    from abkd.image.data import data_names

    if data.name.lower() in _WITHOUT_ROOT:
        extra = [key for key, given in (("root", data.root), ("download", data.download)) if given]
        return f"data.{extra[0]}: {data.name} comes with a package; leave it out" if extra else None
    if data.root is not None and not data.download and not Path(data.root).is_dir():
        return f"data.root: no such folder: {data.root}; create it, or set data.download: true"
    name, names = data.name, data_names()
    place = _folder(data)
    if place is not None and place.is_dir():
        return None if _class_folders(place) else f"data.name: {place} holds no folders of images, one a class"
    if name.startswith(("hub:", "datasets:")):
        return None
    if name.lower() in names or name.startswith("torchvision:"):
        if data.root is not None:
            return None
        return f"data.root: required by {name}: the folder that holds its files, or will with download: true"
    if "/" in name or "\\" in name or name.startswith("."):
        return f"data.name: no such folder: {name}"
    return f"data.name: no such data as {name!r}; {nearest(name, names)}; or a folder, or hub:NAME"


def saved_class_count(folder: str) -> int | None:
    """The number of classes of a saved model, or of the best model of a run folder.

    Raises:
        InputError: There is no model in the folder.
    """
    from abkd.image.models import read_spec

    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"no such folder: {folder}")
    best = place / "best"
    try:
        return read_spec(best if best.is_dir() else place).num_classes
    except AbkdError as error:
        raise InputError(str(error)) from error


def model_problems(
    name: str, options: Mapping[str, Any], classes: int | None, path: str, pretrained: bool
) -> Iterator[str]:
    """One line for each thing wrong with a model's name and options, found by building it without memory."""
    import torch

    from abkd.image.models import build_model, model_names

    own = name.lower() in {known.lower() for known in model_names()}
    if Path(name).is_dir() and not own:
        try:
            saved = saved_class_count(name)
        except InputError as error:
            yield f"{path}.model: {error}"
            return
        if saved is not None and classes is not None and saved != classes:
            yield f"{path}.model: the saved model tells {saved} classes apart, the data has {classes}"
        return
    if name.startswith("hf:") or (pretrained and not own):
        return  # only the library that downloads it can tell
    if not own and not name.startswith(("timm:", "torchvision:")):
        kind = "folder" if "/" in name else "model"
        known = nearest(name, model_names())
        yield f"{path}.model: no such {kind} as {name!r}; {known}; or timm:, torchvision:, hf:NAME"
        return
    base: dict[str, Any] = {"num_classes": classes or 10, "pretrained": pretrained}
    for chosen in [{}, *({key: value} for key, value in options.items())]:
        with torch.device("meta"):
            fault = fault_of(lambda some=chosen: build_model(name, **base, **some), *_BUILDING)
        if fault is not None:
            yield f"{'.'.join([path, *(f'options.{key}' for key in chosen)])}: {fault}"
            if not chosen:
                return  # wrong with any options


def _folder(data: Data) -> Path | None:
    """The folder that a section names, if it names one and not a data set."""
    from abkd.image.data import data_names

    if data.name.lower() in ("folder", "imagenet"):
        return Path(data.root) if data.root is not None else None
    if data.name.lower() in data_names():
        return None  # whatever lies here under the same name
    return Path(data.name) if Path(data.name).is_dir() else None


def _class_folders(place: Path) -> list[str]:
    """The names of the classes: folders in train/, or in the folder itself."""
    train = next((place / name for name in ("train", "training") if (place / name).is_dir()), place)
    return sorted(entry.name for entry in train.iterdir() if entry.is_dir() and not entry.name.startswith("."))
