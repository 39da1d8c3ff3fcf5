"""Language-model distillation: the trainer on TRL's SFTTrainer, its methods, and the student's own text.

`DistillationTrainer` with `DistillationConfig` takes TRL's data and names; `METHODS` says what there is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abkd.lm._config import DistillationConfig
    from abkd.lm._methods import METHODS, Method
    from abkd.lm._trainer import DistillationTrainer
    from abkd.lm._vocabulary import SharedVocabulary, shared_vocabulary

_HOMES = {
    "METHODS": "_methods",
    "DistillationConfig": "_config",
    "DistillationTrainer": "_trainer",
    "Method": "_methods",
    "SharedVocabulary": "_vocabulary",
    "shared_vocabulary": "_vocabulary",
}

__all__ = [
    "METHODS",
    "DistillationConfig",
    "DistillationTrainer",
    "Method",
    "SharedVocabulary",
    "shared_vocabulary",
]


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
