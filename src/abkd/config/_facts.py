"""What can be known of data and models without loading them: names, classes, sizes, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from abkd.errors import AbkdError, InputError, nearest

from ._faults import fault_of
from ._image import Data

# Classes, channels and (height, width) of the data sets that are known by name.
_KNOWN: dict[str, tuple[int, int, tuple[int, int]]] = {
    "mnist-5k": (10, 1, (28, 28)),
    "digits": (10, 1, (8, 8)),
    "cifar10": (10, 3, (32, 32)),
    "cifar100": (100, 3, (32, 32)),
    "food101": (101, 3, (224, 224)),
    "eurosat": (10, 3, (64, 64)),
    "imagenet": (1000, 3, (224, 224)),
}
_BUILDING = (TypeError, ValueError, RuntimeError)


def image_facts(data: Data) -> tuple[int, int, tuple[int, int]] | None:
    """Classes, channels and (height, width), where the name alone or the class folders tell."""
    known = _KNOWN.get(data.name.lower())
    if known is None:
        folders = _class_folders(data.name)
        if not folders:
            return None
        known = (len(folders), 3, (224, 224))
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

    if data.root is not None and not data.download and not Path(data.root).is_dir():
        return f"data.root: no such folder: {data.root}; create it, or set data.download: true"
    name, names = data.name, data_names()
    if name.lower() in names or name.startswith(("hub:", "datasets:", "torchvision:")):
        return None
    if Path(name).is_dir():
        if not (Path(name) / "train").is_dir():
            return f"data.name: the folder {name} has no train/ with a folder a class"
        return None if _class_folders(name) else f"data.name: {name}/train holds no class folders"
    if "/" in name or "\\" in name or name.startswith("."):
        return f"data.name: no such folder: {name}"
    return (
        f"data.name: no such data as {name!r}; {nearest(name, names)}; or a folder with train/, or hub:NAME"
    )


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
    for chosen in [{key: value} for key, value in options.items()] or [{}]:
        with torch.device("meta"):
            fault = fault_of(lambda some=chosen: build_model(name, **base, **some), *_BUILDING)
        if fault is not None:
            yield f"{'.'.join([path, *(f'options.{key}' for key in chosen)])}: {fault}"


def _class_folders(name: str) -> list[str]:
    train = Path(name) / "train"
    return sorted(entry.name for entry in train.iterdir() if entry.is_dir()) if train.is_dir() else []
