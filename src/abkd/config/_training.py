"""Checking the `training` section against transformers' TrainingArguments, before anything is built."""

from __future__ import annotations

import enum
import math
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from abkd.config._faults import fault_of, show
from abkd.errors import MissingPackageError, nearest

# Set by other parts of a recipe; a second place to write them would be a place to contradict them.
_ELSEWHERE = {
    "output_dir": "output",
    "seed": "seeds",
    "data_seed": "seeds",
    "method": "method",
    "divergence": "divergence",
    "alpha": "divergence",
    "beta": "divergence",
    "temperature": "loss",
    "ce_weight": "loss",
    "kd_weight": "loss",
    "method_settings": "loss",
    "resume_from_checkpoint": "the option --resume",
    "do_train": "the command",
    "do_eval": "the command",
    "do_predict": "the command",
    "local_rank": "the launcher",
    "disable_tqdm": "the option --quiet",
}
# What would be accepted by transformers' arguments and then work against this library's trainers.
_REFUSED = {
    "push_to_hub": "a run folder holds more than one model: push best/ yourself when the run is finished",
    "metric_for_best_model": "the best epoch is chosen and kept by training.select_by",
    "greater_is_better": "which values of training.select_by are better is known",
    "eos_token": "the rows that measure the student keep the tokenizer's own end: set it in the model's tokenizer",
    "chat_template_path": "the rows that measure the student keep the tokenizer's own template: set it there",
    "save_only_model": "a run is resumed from its checkpoints, which would lack the state of the optimiser",
    "load_best_model_at_end": "the best epoch is chosen and kept by training.select_by",
}
_WHOLE_SPLIT = "the metrics of images are of a whole split, which no batch alone gives"
_REFUSED_IMAGES = {
    **_REFUSED,
    "batch_eval_metrics": _WHOLE_SPLIT,
    "neftune_noise_alpha": "it is noise on the embeddings of tokens, and images have none",
}
# Single values that the image trainer cannot work with.
_UNFIT_IMAGES: dict[str, tuple[tuple[Any, ...], str]] = {
    "save_strategy": (("best",), "the best epoch is kept anyway, by training.select_by; choose epoch, steps or no"),
    "eval_do_concat_batches": ((False,), f"{_WHOLE_SPLIT}; leave it out"),
    "train_sampling_strategy": (
        ("group_by_length", "batch_rebalance"),
        "images have no length; choose random or sequential",
    ),
}
_ELSEWHERE_LM = {
    **_ELSEWHERE,
    "pretrain_weight": "loss",
    "student_text": "student_text",
    "lmbda": "student_text.share",
    "max_new_tokens": "max_new_tokens of student_text or teacher_text",
    "seq_kd": "method: seqkd",
    "teacher_text": "teacher_text",
    "teacher_text_folder": "output",
    "teacher_model_init_kwargs": "teacher",
    "model_init_kwargs": "student",
}
# Optimisers, by the beginning or the end of their name, and the package each needs beside torch.
_OPTIMISERS = (
    (("galore",), (), "galore_torch"),
    (("lomo", "adalomo"), (), "lomo_optim"),
    (("grokadamw",), (), "grokadamw"),
    (("schedule_free",), (), "schedulefree"),
    (("apollo",), (), "apollo_torch"),
    (("stable_adamw",), (), "optimi"),
    (("adamw_anyprecision",), (), "torchdistx"),
    (("adamw_torch_4bit", "adamw_torch_8bit"), (), "torchao"),
    (("paged_", "ademamix", "lion_", "rmsprop_bnb"), ("_8bit", "_32bit"), "bitsandbytes"),
)
# The least value that makes sense, and whether it may be reached.
_LEAST: dict[str, tuple[float, bool]] = {
    "learning_rate": (0, False),
    "num_train_epochs": (0, False),
    "per_device_train_batch_size": (1, True),
    "per_device_eval_batch_size": (1, True),
    "gradient_accumulation_steps": (1, True),
    "weight_decay": (0, True),
    "momentum": (0, True),
    "max_grad_norm": (0, True),
    "warmup_steps": (0, True),
    "dataloader_num_workers": (0, True),
}


def check_training(
    training: Mapping[str, Any], path: str, task: str = "image", beside: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The section with its values in the declared types, and one line a fault.

    Args:
        training: Keys and values as written.
        path: Where the section stands in the recipe, `training` or `teacher.training`.
        task: `image` or `lm`, whose `DistillationConfig` it is checked against.
        beside: Another section of the recipe, to whose keys this one adds.

    Raises:
        MissingPackageError: transformers is not installed.
    """
    kinds = _kinds(task)
    elsewhere, refused = (_ELSEWHERE_LM, _REFUSED) if task == "lm" else (_ELSEWHERE, _REFUSED_IMAGES)
    allowed = [name for name in kinds if name not in elsewhere]
    checked: dict[str, Any] = {}
    faults: list[str] = []
    for key, value in training.items():
        if key in elsewhere:
            faults.append(f"{path}.{key}: set by {elsewhere[key]}, not here")
        elif key in refused and value is not None and (value is not False or key == "greater_is_better"):
            faults.append(f"{path}.{key}: {refused[key]}; leave it out")
        elif key not in kinds:
            faults.append(f"{path}.{key}: no such key; {_nearest_few(key, allowed, task)}")
        else:
            result, fault = _check_value(key, value, kinds[key], _names(key, task))
            fault = fault or _lacking(key, result, task)
            if fault:
                faults.append(f"{path}.{key}: {fault}")
            else:
                checked[key] = result
    for fault in (*_fit(checked, path, task), *_late(checked, path, task, training)):
        key = fault.partition(":")[0]
        if not any(known.startswith(f"{key}:") for known in faults):
            faults.append(fault)
    return checked, [*faults, *_idle(checked, path, task, beside or {})]


def _late(checked: Mapping[str, Any], path: str, task: str, training: Mapping[str, Any]) -> Iterator[str]:
    """Milestones of the learning rate that training does not reach; by `max_steps` it has no known epochs."""
    epochs = checked.get("num_train_epochs", _config_class(task).num_train_epochs)
    if checked.get("max_steps", -1) > 0 or ("num_train_epochs" in training and "num_train_epochs" not in checked):
        return
    late = [milestone for milestone in checked.get("lr_milestones") or () if epochs <= milestone < math.inf]
    if late:
        yield (
            f"{path}.lr_milestones: {', '.join(f'{milestone:g}' for milestone in late)} not reached in {epochs:g} "
            "epochs (num_train_epochs): leave out what comes after them, or train longer"
        )


def _idle(checked: Mapping[str, Any], path: str, task: str, beside: Mapping[str, Any]) -> Iterator[str]:
    """Numbers of steps between what is not done by steps."""
    together = {**beside, **checked}
    for what in ("eval", "save", "logging"):
        default = "steps" if (task, what) == ("lm", "logging") else "epoch"
        chosen = together.get(f"{what}_strategy", default)
        if checked.get(f"{what}_steps") is not None and chosen != "steps":
            yield (
                f"{path}.{what}_steps: has no effect with {what}_strategy {chosen!r}: set that to 'steps', or leave "
                "this out"
            )


def _fit(checked: Mapping[str, Any], path: str, task: str) -> Iterator[str]:
    """What the arguments' own class says of all together; where that is something, of each of them first."""
    from abkd.engine import join

    kind = _config_class(task)
    join(checked)  # as the arguments would, and each of them alone without the others
    place = {key: checked[key] for key in ("use_cpu", "ddp_backend") if key in checked}

    def fault(settings: Mapping[str, Any]) -> str | None:
        settings = {**place, **settings}
        if task == "lm" and {"select_by", "validation_texts"} & {*settings}:  # which need an eval_strategy
            settings = {"eval_strategy": "epoch", **settings}
        said = fault_of(lambda: kind.from_settings(settings, output_dir="unused"))
        return said and said.removeprefix("training: ")

    together = {key: value for key, value in checked.items() if key != "eval_strategy"}
    if fault(together) is None:
        return
    alone = {key: said for key, value in together.items() if (said := fault({key: value}))}
    yield from (f"{path}.{key}: {said}" for key, said in alone.items())
    said = fault({key: value for key, value in together.items() if key not in alone})
    if said:
        yield f"{path}: {said}"


def _names(key: str, task: str) -> Iterable[str]:
    """What may be written where the declared type allows any text or anything at all."""
    if key == "select_by" and task == "lm":
        from abkd.lm._measures import METRICS

        return METRICS
    if key == "select_by":
        from abkd.image._metrics import METRICS

        return METRICS
    return ("auto",) if (key, task) == ("lr_scheduler_type", "image") else ()


def _check_value(key: str, value: Any, kind: Any, names: Iterable[str]) -> tuple[Any, str | None]:
    """The value in its declared type, or what is wrong with it."""
    choices = [*names, *_choices(kind)]
    if choices and isinstance(value, str):
        return (value, None) if value in choices else (value, f"got {value!r}; {nearest(value, choices)}")
    if isinstance(value, bool) and bool not in _members(kind):
        return value, f"expected a number or a name, got {value}"
    if isinstance(value, str) and not {str, bool} & set(_members(kind)) and kind is not Any:
        return value, f"expected {_in_words(kind)}, got {value!r}"
    try:
        result = _adapter(kind).validate_python(value)
    except ValidationError:
        return value, f"expected {_in_words(kind)}, got {show(value)}"
    least = _LEAST.get(key)
    if least and isinstance(result, (int, float)) and (result < least[0] or (result == least[0] and not least[1])):
        return value, f"expected {'at least' if least[1] else 'more than'} {least[0]:g}, got {value}"
    if isinstance(result, float) and not math.isfinite(result):
        return value, f"expected a finite number, got {result}"
    return result, None


def _lacking(key: str, value: Any, task: str) -> str | None:
    """What a choice needs that is not there: a package, the best model of transformers, texts, a first step."""
    if task == "image" and key in _UNFIT_IMAGES and value in _UNFIT_IMAGES[key][0]:
        return _UNFIT_IMAGES[key][1]
    if key == "max_steps" and value < 1 and value != -1:
        return f"expected at least 1, or -1 to go by num_train_epochs, got {value}"
    if key == "optim" and isinstance(value, str):
        for starts, ends, package in _OPTIMISERS:
            if (value.startswith(starts) or (ends and value.endswith(ends))) and find_spec(package) is None:
                return f"{value!r} needs the package {package}, which is not installed"
    if key == "report_to":
        return _not_reporting([value] if isinstance(value, str) else value)
    return None


def _not_reporting(wanted: Any) -> str | None:
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    for name in wanted or ():
        if name in {"none", "all"}:
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            return f"got {name!r}; {nearest(str(name), [*INTEGRATION_TO_CALLBACK, 'none'])}"
        if name not in get_available_reporting_integrations():
            return f"{name!r} needs its package, which is not installed: pip install {name}"
    return None


def _config_class(task: str) -> Any:
    """The configuration of the task's trainer."""
    if task == "lm":
        from abkd.lm import DistillationConfig as LmConfig

        return LmConfig
    from abkd.image import DistillationConfig

    return DistillationConfig


@cache
def _kinds(task: str) -> dict[str, Any]:
    """The declared type of every argument of a trainer's DistillationConfig."""
    try:
        from transformers.training_args import TrainingArguments

        config = _config_class(task)
    except MissingPackageError:
        raise
    except ImportError as error:
        raise MissingPackageError(f'training needs transformers: pip install "abkd[{task}]"') from error
    hints = typing.get_type_hints(config)
    # Where a task's defaults are declared as Any, transformers' own declaration is the stricter one.
    hints |= {key: kind for key, kind in typing.get_type_hints(TrainingArguments).items() if hints[key] is Any}
    return {field.name: hints[field.name] for field in fields(config) if field.init}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        return TypeAdapter(Any)


def _members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    inner = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if inner and origin not in (list, dict, tuple, Sequence):
        return tuple(member for part in inner for member in _members(part))
    return (origin or kind,)


def _choices(kind: Any) -> list[str]:
    """The values of the enumeration in a type, if there is one."""
    for member in _members(kind):
        if isinstance(member, type) and issubclass(member, enum.Enum):
            return [str(choice.value) for choice in member]
    return []


def _in_words(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    words |= {list: "a list", Sequence: "a list", dict: "a mapping"}
    return " or ".join(words.get(member, str(member)) for member in _members(kind))


def _nearest_few(key: str, allowed: list[str], task: str) -> str:
    """The nearest argument by name, without the hundred others."""
    guess = nearest(key, allowed).split("Known:")[0].strip()
    return f"{guess or 'none is near;'} see abkd.{task}.DistillationConfig".replace("? see", "? See")
