"""Image data of the `datasets` package: a hub repository, or a folder of `save_to_disk`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from abkd.errors import InputError, nearest
from abkd.image._packages import needed
from abkd.image.data._raw import Raw, assemble
from abkd.image.data._sources import DecodedImages, MemoryImages

_SPLITS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val"),
    "test": ("test",),
}
_OPTIONS = (
    "config",
    "revision",
    "image_column",
    "label_column",
    "train_split",
    "validation_split",
    "test_split",
)


def load_hub(name: str, options: Mapping[str, Any], *, local: bool) -> Raw:
    """Images and labels of a `datasets` data set.

    Args:
        name: a hub repository, or with `local` the path of a folder of `save_to_disk`.
        options: `config` and `revision` of a repository; `image_column` and `label_column`, needed where
            there are several; `train_split`, `validation_split`, `test_split` where they have other names.
        local: read the folder `name`.

    Raises:
        InputError: nothing there, unknown options or columns, or a data set without images or labels.
    """
    for option in options:
        if option not in _OPTIONS or (local and option in ("config", "revision")):
            raise InputError(f"{name}: unknown option {option!r}; {nearest(option, _OPTIONS)}")
    loaded = _from_disk(name) if local else _from_hub(name, options)
    chosen = _chosen(name, loaded, options)
    features: Mapping[str, Any] = chosen["train"].features
    image = _column(name, features, options.get("image_column"), "image", ("Image",))
    label = _column(name, features, options.get("label_column"), "label", ("ClassLabel", "Value"))
    classes = _class_names(chosen, label)
    splits: dict[str, DecodedImages | MemoryImages] = {
        split: DecodedImages(
            _Rows(data, image),
            _labels(f"{name}, {split} split", data, label, classes),
            3,
            _Places(name, split),
        )
        for split, data in chosen.items()
    }
    return assemble(name, splits, classes)


def _from_disk(path: str) -> Any:
    with needed("datasets"):
        import datasets

    if not Path(path).is_dir():
        raise InputError(f"datasets:{path}: expected a folder written by save_to_disk, found none")
    try:
        return datasets.load_from_disk(path)
    except Exception as error:  # many kinds; an empty data set, for one, is an IndexError
        raise InputError(f"datasets:{path}: cannot be read as a folder written by save_to_disk ({error})") from error


def _from_hub(name: str, options: Mapping[str, Any]) -> Any:
    with needed("datasets"):
        import datasets

    try:
        return datasets.load_dataset(name, options.get("config"), revision=options.get("revision"))
    except Exception as error:  # the hub client raises many kinds
        raise InputError(
            f"hub:{name}: cannot be loaded ({error}); check the name and the connection, or use a local copy "
            "with datasets:PATH"
        ) from error


def _chosen(name: str, loaded: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Our split -> the data set that holds it."""
    if not isinstance(loaded, dict):
        return {"train": loaded}
    available = cast("dict[str, Any]", loaded)
    chosen: dict[str, Any] = {}
    for split, names in _SPLITS.items():
        wanted = options.get(f"{split}_split")
        if wanted is not None and wanted not in available:
            raise InputError(f"{name}: no split {wanted!r}; {nearest(str(wanted), available)}")
        found = [wanted] if wanted is not None else [key for key in names if key in available]
        if found:
            chosen[split] = available[found[0]]
    if "train" not in chosen:
        raise InputError(f"{name}: no split 'train'; name one of {', '.join(available)} as train_split")
    if chosen.get("validation") is chosen.get("test"):
        chosen.pop("validation", None)
    return chosen


def _column(name: str, features: Mapping[str, Any], wanted: str | None, what: str, kinds: tuple[str, ...]) -> str:
    """The wanted column, else the only one of the first kind, else one called after `what`."""
    if wanted is not None:
        if wanted not in features:
            raise InputError(f"{name}: no column {wanted!r}; {nearest(wanted, features)}")
        return wanted
    kind_of = {key: type(value).__name__ for key, value in features.items()}
    found = [key for key, kind in kind_of.items() if kind == kinds[0]]
    found = found or [key for key in (what, f"{what}s") if kind_of.get(key) in kinds]
    if len(found) != 1:
        columns = ", ".join(f"{key} ({kind})" for key, kind in kind_of.items())
        raise InputError(
            f"{name}: expected one {what} column, found {len(found)}; give {what}_column. Columns: {columns}"
        )
    return found[0]


def _class_names(chosen: Mapping[str, Any], label: str) -> tuple[str, ...]:
    """Names of a ClassLabel; else, for numbers, 0 to the largest; for words, the sorted words."""
    names: Any = getattr(chosen["train"].features[label], "names", None)
    if names:
        return tuple(names)
    values = {value for data in chosen.values() for value in data[label]}
    if values and all(isinstance(value, int) for value in values):
        return tuple(str(number) for number in range(max(values) + 1))
    return tuple(sorted(str(value) for value in values if value is not None))


def _labels(where: str, data: Any, label: str, classes: tuple[str, ...]) -> Tensor:
    values: list[Any] = list(data[label])
    if any(value is None for value in values):
        raise InputError(f"{where}: the label column {label!r} has empty entries; every image needs a label")
    if all(isinstance(value, int) for value in values):
        return torch.tensor(values, dtype=torch.int64)
    number = {name: index for index, name in enumerate(classes)}
    return torch.tensor([number[str(value)] for value in values], dtype=torch.int64)


@dataclass(frozen=True)
class _Rows:
    data: Any
    column: str

    def __call__(self, index: int) -> Any:
        return self.data[index][self.column]


@dataclass(frozen=True)
class _Places:
    name: str
    split: str

    def __call__(self, index: int) -> str:
        return f"{self.name}, {self.split} split, row {index}"
