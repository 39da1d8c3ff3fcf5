"""The models of a run, from their names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abkd.engine import on_main, ranks
from abkd.errors import InputError
from abkd.image._settings import DataChoice, ModelChoice
from abkd.image.models import ImageClassifier, build_model, model_names
from abkd.teachers import LiveTeacher, MemoryTeacher, Teacher

if TYPE_CHECKING:
    from abkd.image.data import ImageData


def load_images(choice: DataChoice) -> ImageData:
    """The data of a run, in every process; where they are downloaded, the first one does so for all.

    Raises:
        InputError: as `abkd.image.data.load_data`.
        ElsewhereError: in the other processes, where the download failed in the first.
    """
    from abkd.image.data import load_data

    if ranks() > 1 and choice.options.get("download"):
        on_main(lambda: _fetched(choice))
    return load_data(choice.name, **choice.options)


def load_student(choice: ModelChoice, data: ImageData) -> ImageClassifier:
    """The student, fit for the data: its classes and channels, and for our own models its mean and deviation.

    Raises:
        InputError: an unknown name or option, or a folder with a model of other classes.
    """
    return _build(choice, data)


def load_teacher(choice: ModelChoice, data: ImageData, *, cache: bool = False) -> Teacher:
    """The teacher, frozen.

    Args:
        choice: a folder (of a run: the model of its best epoch), or a name with `pretrained` or `weights`.
        data: the data whose classes it must know.
        cache: remember its logits by the content of each image.

    Raises:
        InputError: a teacher with random weights, or with other classes than the data's.
    """
    trained = choice.options.get("pretrained") or choice.options.get("weights")
    if not trained and (_is_own(choice.name) or not Path(choice.name).is_dir()):
        is_folder = Path(choice.name).is_dir()
        remark = f"as a folder this one is {folder_name(choice.name)!r}" if is_folder else "this is not one"
        raise InputError(
            f"teacher {choice.name!r} would have random weights: give the folder of a trained model or run "
            f"({remark}), or the options weights=FILE or pretrained=true"
        )
    teacher: Teacher = LiveTeacher.frozen(_build(choice, data))
    return MemoryTeacher(teacher) if cache else teacher


def folder_name(folder: str) -> str:
    """The folder under a name that no model has: `./cnn` for the folder `cnn`."""
    return f".{os.sep}{folder}" if _is_own(folder) else folder


def model_folder(name: str) -> str:
    """The folder that holds the weights: of a run folder the one of its best epoch, else `name` itself."""
    best = Path(name) / "best"
    return str(best) if best.is_dir() else name


def _fetched(choice: DataChoice) -> None:
    from abkd.image.data import load_data

    load_data(choice.name, **choice.options)


def _build(choice: ModelChoice, data: ImageData) -> ImageClassifier:
    own = _is_own(choice.name)
    options: dict[str, Any] = {"channels": data.channels}
    if own and "weights" not in choice.options:
        options |= {"mean": data.mean, "std": data.std}
    return build_model(
        choice.name if own else model_folder(choice.name),
        num_classes=data.num_classes,
        **(options | dict(choice.options)),
    )


def _is_own(name: str) -> bool:
    """Whether a name is that of a model of ours, which then is no folder."""
    return name.lower() in {known.lower() for known in model_names()}
