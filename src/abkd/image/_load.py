"""The models of a run, from their names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from abkd.errors import InputError
from abkd.image._settings import ModelChoice
from abkd.image.models import ImageClassifier, build_model, model_names
from abkd.teachers import LiveTeacher, MemoryTeacher, Teacher

if TYPE_CHECKING:
    from abkd.image.data import ImageData


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
    if not Path(choice.name).is_dir() and not (choice.options.get("pretrained") or choice.options.get("weights")):
        raise InputError(
            f"teacher {choice.name!r} would have random weights: give the folder of a trained model or run "
            "(this is not one), or the options weights=FILE or pretrained=true"
        )
    teacher: Teacher = LiveTeacher.frozen(_build(choice, data))
    return MemoryTeacher(teacher) if cache else teacher


def model_folder(name: str) -> str:
    """The folder that holds the weights: of a run folder the one of its best epoch, else `name` itself."""
    best = Path(name) / "best"
    return str(best) if best.is_dir() else name


def _build(choice: ModelChoice, data: ImageData) -> ImageClassifier:
    own = choice.name.lower() in {name.lower() for name in model_names()}
    options: dict[str, Any] = {"channels": data.channels}
    if own and "weights" not in choice.options:
        options |= {"mean": data.mean, "std": data.std}
    return build_model(
        choice.name if own else model_folder(choice.name),
        num_classes=data.num_classes,
        **(options | dict(choice.options)),
    )
