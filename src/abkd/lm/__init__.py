"""Language-model distillation: the trainer on TRL's SFTTrainer, its methods, and the student's own text.

`DistillationTrainer` with `DistillationConfig` takes TRL's data and names; `METHODS` says what there is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from abkd.errors import MissingPackageError

if TYPE_CHECKING:
    from abkd.lm._adapters import load_model, lora, with_adapter
    from abkd.lm._config import DistillationConfig
    from abkd.lm._methods import METHODS, Method
    from abkd.lm._parts import (
        LmParts,
        answered,
        load_parts,
        load_teacher,
        load_tokenizer,
        model_path,
        origin_of,
    )
    from abkd.lm._rows import load_rows, load_sets
    from abkd.lm._run import lm_config, load_lm_result, run_lm
    from abkd.lm._settings import LmData, LmEvaluation, LmRun, LmStudent, LmTeacher
    from abkd.lm._smollm2 import load_smollm2, smollm2_folder
    from abkd.lm._student_settings import StudentText
    from abkd.lm._students import layer_influence, make_student
    from abkd.lm._trainer import DistillationTrainer
    from abkd.lm._vocabulary import SharedVocabulary, shared_vocabulary
    from abkd.lm.data import load_instructions
    from abkd.lm.evaluation import EvaluationResult, evaluate

_HOMES = {
    "DistillationConfig": "_config",
    "DistillationTrainer": "_trainer",
    "EvaluationResult": "evaluation",
    "LmData": "_settings",
    "LmEvaluation": "_settings",
    "LmParts": "_parts",
    "LmRun": "_settings",
    "LmStudent": "_settings",
    "LmTeacher": "_settings",
    "METHODS": "_methods",
    "Method": "_methods",
    "SharedVocabulary": "_vocabulary",
    "StudentText": "_student_settings",
    "answered": "_parts",
    "evaluate": "evaluation",
    "layer_influence": "_students",
    "lm_config": "_run",
    "load_instructions": "data",
    "load_lm_result": "_run",
    "load_model": "_adapters",
    "load_parts": "_parts",
    "load_rows": "_rows",
    "load_sets": "_rows",
    "load_smollm2": "_smollm2",
    "load_teacher": "_parts",
    "load_tokenizer": "_parts",
    "lora": "_adapters",
    "make_student": "_students",
    "model_path": "_parts",
    "origin_of": "_parts",
    "run_lm": "_run",
    "shared_vocabulary": "_vocabulary",
    "smollm2_folder": "_smollm2",
    "with_adapter": "_adapters",
}

__all__ = [
    "METHODS",
    "DistillationConfig",
    "DistillationTrainer",
    "EvaluationResult",
    "LmData",
    "LmEvaluation",
    "LmParts",
    "LmRun",
    "LmStudent",
    "LmTeacher",
    "Method",
    "SharedVocabulary",
    "StudentText",
    "answered",
    "evaluate",
    "layer_influence",
    "lm_config",
    "load_instructions",
    "load_lm_result",
    "load_model",
    "load_parts",
    "load_rows",
    "load_sets",
    "load_smollm2",
    "load_teacher",
    "load_tokenizer",
    "lora",
    "make_student",
    "model_path",
    "origin_of",
    "run_lm",
    "shared_vocabulary",
    "smollm2_folder",
    "with_adapter",
]


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "abkd"):
            raise
        raise MissingPackageError(
            f'{__name__}.{name} needs the package {package}, which is not installed or too old: pip install "abkd[lm]"'
        ) from error
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
