"""Image distillation: data, models, objectives, the trainer, and whole runs.

`DistillationTrainer` with `DistillationConfig` is transformers' Trainer with a teacher; `run_image` is a
run from names to a tested model in a folder.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abkd.engine import RunResult
    from abkd.image._config import DistillationConfig
    from abkd.image._evaluate import evaluate_models
    from abkd.image._load import load_student, load_teacher
    from abkd.image._metrics import classification_metrics
    from abkd.image._run import load_result, run_image
    from abkd.image._settings import DataChoice, ImageRun, ModelChoice
    from abkd.image._trainer import DistillationTrainer, collate_images

_HOMES = {
    "DataChoice": "_settings",
    "DistillationConfig": "_config",
    "DistillationTrainer": "_trainer",
    "ImageRun": "_settings",
    "ModelChoice": "_settings",
    "RunResult": "_run",
    "classification_metrics": "_metrics",
    "collate_images": "_trainer",
    "evaluate_models": "_evaluate",
    "load_result": "_run",
    "load_student": "_load",
    "load_teacher": "_load",
    "run_image": "_run",
}

__all__ = [
    "DataChoice",
    "DistillationConfig",
    "DistillationTrainer",
    "ImageRun",
    "ModelChoice",
    "RunResult",
    "classification_metrics",
    "collate_images",
    "evaluate_models",
    "load_result",
    "load_student",
    "load_teacher",
    "run_image",
]


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used: `abkd.image.objectives` alone needs no transformers."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
