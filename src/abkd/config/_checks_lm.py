"""What one section of a language recipe must say for another to be right, looked up before anything loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abkd.config._faults import fault_of
from abkd.config._image import Divergence
from abkd.config._lm import LmCompare, LmData, LmEvaluation, LmMethodSettings, LmStudent, LmTeacher
from abkd.config._methods import chosen_name, divergence_problems, value_problems
from abkd.config._training import check_training
from abkd.errors import nearest

if TYPE_CHECKING:
    from abkd.lm import DistillationConfig

_FILES = (".jsonl", ".json", ".parquet", ".txt")


def check_lm(sections: Mapping[str, Any]) -> list[str]:
    """One line for each fault between sections.

    Args:
        sections: Sections by name, each right in itself; one that is not is left out.
    """
    training: Mapping[str, Any] = sections.get("training") or {}
    faults = [*_models(sections), *_data(sections), *check_training(training, "training", "lm")[1]]
    faults += _choice(training, sections)
    teacher: LmTeacher | None = sections.get("teacher")
    if teacher is not None and teacher.training is not None:
        faults += check_training(teacher.training, "teacher.training", "lm")[1]
    compare: LmCompare = sections.get("compare") or LmCompare()
    method: str | None = sections.get("method")
    if method is not None:
        own = LmMethodSettings(
            divergence=sections.get("divergence"),
            loss=dict(sections.get("loss") or {}),
            student_text=sections.get("student_text"),
            teacher_text=sections.get("teacher_text"),
        )
        faults += _method(method, own, "method", "")
    for place, name in enumerate(compare.methods or ()):
        faults += _unknown(name, f"compare.methods.{place}")
    for name, settings in compare.settings.items():
        path = f"compare.settings.{name}"
        faults += _method(name, settings, path, f"{path}.")
        faults += check_training(settings.training, f"{path}.training", "lm", training)[1]
    return faults or list(_together(sections))


def _models(sections: Mapping[str, Any]) -> Iterator[str]:
    from abkd.lm._adapters import same_model

    student: LmStudent | None = sections.get("student")
    teacher: LmTeacher | None = sections.get("teacher")
    if student is not None and student.model is not None:
        yield from _place(student.model, "student.model")
    if student is not None and student.keep == "even" and not isinstance(student.layers, int):
        yield "student.keep: says which layers are kept where student.layers is a number; leave it out"
    if teacher is not None:
        if teacher.model is not None:
            yield from _place(teacher.model, "teacher.model")
        if teacher.adapter is not None:
            yield from _place(teacher.adapter, "teacher.adapter")
        if teacher.cache is not None and not Path(teacher.cache).is_dir():
            yield f"teacher.cache: no such folder: {teacher.cache}; make it with: abkd cache RECIPE --output FOLDER"
    if student is None or "teacher" not in sections:
        return
    whole = not student.smaller
    if student.model is None and (teacher is None or teacher.model is None):
        yield "student: made from the teacher's layers, so teacher.model is required"
    origin = student.model or (None if teacher is None else teacher.model)
    if not whole and origin is not None:
        yield from _too_many(student, origin)
    plain = teacher is not None and teacher.adapter is None and teacher.training is None
    if teacher is None or not plain or not whole or student.model is None or teacher.model is None:
        return
    if same_model(student.model, teacher.model):
        yield f"student.model: {student.model!r} is the teacher itself; name another, or layers to keep of it"


def _too_many(student: LmStudent, origin: str) -> Iterator[str]:
    """More layers, heads or units than a model on this disk has."""
    from abkd.lm._adapters import config_of

    folder = Path(origin)
    config = config_of(folder) if folder.is_dir() else None
    for key, name in (
        ("layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("intermediate_size", "intermediate_size"),
    ):
        wanted, there = getattr(student, key), getattr(config, name, None)
        most = wanted[-1] + 1 if isinstance(wanted, list) else wanted
        if isinstance(there, int) and most is not None and most > there:
            indices = f"indices from 0 to {there - 1}" if isinstance(wanted, list) else f"at most {there}"
            yield f"student.{key}: expected {indices}, as {origin} has {there}, got {wanted}"


def _place(name: str, path: str) -> Iterator[str]:
    """A fault for what can only be a folder and is none, or is one that holds no model."""
    folder = Path(name)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
            yield f"{path}: {name} holds no model (no config.json)"
    elif looks_local or folder.exists():
        yield f"{path}: no such folder: {name}"


def _data(sections: Mapping[str, Any]) -> Iterator[str]:
    from abkd.lm.data import instruction_names

    data: LmData | None = sections.get("data")
    evaluation: LmEvaluation = sections.get("evaluation") or LmEvaluation()
    names = instruction_names()
    places = [(name, f"evaluation.sets.{place}") for place, name in enumerate(evaluation.sets)]
    if data is not None:
        places.append((data.train, "data.train"))
        if isinstance(data.validation, str):
            places.append((data.validation, "data.validation"))
        if data.pretrain is not None and data.pretrain.endswith(_FILES) and not Path(data.pretrain).is_file():
            yield f"data.pretrain: no such file: {data.pretrain}"
        if data.pretrain is None and "pretrain_weight" in (sections.get("loss") or {}):
            yield "loss.pretrain_weight: of the LM loss on data.pretrain, which is not given; leave it out"
        if data.root is not None and not Path(data.root).is_dir():
            yield f"data.root: no such folder: {data.root}"
        yield from _answers(data, sections)
    for name, path in places:
        local = name.startswith((".", "/", "~")) or name.endswith(_FILES)
        if name in names or Path(name).exists():
            continue
        if local:
            yield f"{path}: no such file or folder: {name}"
        elif "/" not in name:
            yield f"{path}: no such data as {name!r}; {nearest(name, names)}; or a file, a folder, or owner/name"


def _choice(training: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[str]:
    """A choice of the epoch without rows to choose it by, and rows to choose by that are never looked at."""
    data: LmData | None = sections.get("data")
    if data is None:
        return
    compare: LmCompare = sections.get("compare") or LmCompare()
    each = {f"compare.settings.{name}.training": one.training for name, one in compare.settings.items()}
    if data.validation is not None:
        for path, settings in {"training": training, **each}.items():
            if settings.get("eval_strategy") in ("no", False):
                yield (
                    f"{path}.eval_strategy: 'no' contradicts data.validation, by whose rows the epoch is chosen: "
                    "leave one of the two out"
                )
        return
    for path, settings in {"training": training, **each}.items():
        for key in ("select_by", "validation_texts", "eval_strategy", "eval_on_start"):
            if settings.get(key) not in (None, False, "no"):
                yield f"{path}.{key}: needs validation rows: set data.validation, or leave it out"


def _answers(data: LmData, sections: Mapping[str, Any]) -> Iterator[str]:
    from abkd.lm._parts import answers_beside

    teacher: LmTeacher | None = sections.get("teacher")
    if data.answers is None or "teacher" not in sections:
        return
    if isinstance(data.validation, str):
        yield "data.validation: with data.answers, a share or a number held out of train"
    if teacher is None:
        yield "data.answers: the teacher writes them, so teacher.model is required"
    elif teacher.training is not None:
        yield "data.answers: the teacher writes them as it is: leave out teacher.training"
    elif teacher.cache is not None and not answers_beside(teacher.cache).is_dir():
        yield (
            f"data.answers: {teacher.cache} was made without the teacher's answers (no folder "
            f"{answers_beside(teacher.cache)}): make both with: abkd cache RECIPE --output FOLDER"
        )


def _unknown(method: str, path: str) -> list[str]:
    from abkd.lm import METHODS

    return [] if method in METHODS else [f"{path}: no such method as {method!r}; {nearest(method, METHODS)}"]


def _method(method: str, settings: LmMethodSettings, path: str, prefix: str) -> list[str]:
    """One line for each thing wrong with a method's name, divergence, loss and text, one setting at a time."""
    from abkd.lm import METHODS

    faults = _unknown(method, path)
    if faults:
        if settings.divergence is not None and settings.divergence.name is not None:
            faults += divergence_problems(settings.divergence, {}, f"{prefix}divergence")
        return faults
    faults += _loss(method, settings.loss, f"{prefix}loss")
    if settings.divergence is not None:
        own = METHODS[method].divergence
        if own is None or METHODS[method].policy_gradient:
            faults.append(f"{prefix}divergence: the method {method} takes no divergence; leave the section out")
        else:
            written = settings.divergence.model_copy(update={"name": chosen_name(settings.divergence, own)})
            faults += divergence_problems(written, own, f"{prefix}divergence")
            faults += _half(written, own, f"{prefix}divergence")
    for name in ("student_text", "teacher_text"):
        for key, value in (getattr(settings, name) or {}).items():
            fault = _text_fault(name, key, value)
            if fault is not None:
                faults.append(f"{prefix}{name}.{key}: {fault}")
    return faults


def _half(written: Divergence, own: Mapping[str, Any], path: str) -> Iterator[str]:
    """One of alpha and beta without the other: which one the other would be is nowhere written."""
    given = [name for name in ("alpha", "beta") if name in written.settings]
    if written.name == "alpha_beta" == own["name"] and len(given) == 1:
        yield f"{path}: alpha and beta belong together, and only {given[0]} is given: give both"


def _loss(method: str, loss: Mapping[str, Any], path: str) -> Iterator[str]:
    from abkd.lm import METHODS, DistillationConfig
    from abkd.lm._settings import WEIGHTS

    own = METHODS[method].settings
    for key, value in loss.items():
        if key not in WEIGHTS and key not in own:
            yield f"{path}.{key}: no such key; {nearest(key, (*WEIGHTS, *own))}"
        elif key in own:
            fault = fault_of(lambda key=key, value=value: _with(DistillationConfig, method, {key: value}), TypeError)
            if fault is not None:
                yield f"{path}.{key}: {_bare(fault, key)}"
        elif key == "pretrain_weight":
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                yield f"{path}.{key}: expected a number of at least 0, got {value!r}"
        else:
            yield from value_problems(value, lambda number, key=key: _weight(key, number), f"{path}.{key}")


def _with(kind: Any, method: str, settings: Mapping[str, Any]) -> object:
    return kind.from_settings({"use_cpu": True}, output_dir="unused", method=method, method_settings=dict(settings))


def _weight(key: str, value: Any) -> None:
    from abkd.lm._objective import ScheduledObjective

    weights = {"temperature": 1.0, "ce_weight": 1.0, "kd_weight": 1.0, key: value}
    ScheduledObjective({"name": "forward_kl"}, weights)


def _text_fault(section: str, key: str, value: Any) -> str | None:
    from abkd.lm._student_settings import sampling_of, student_text_of

    if section == "teacher_text":
        fault = fault_of(lambda: sampling_of({key: value}, section), TypeError)
    else:
        adaptive = [key, value] in (["share", 0], ["schedule", "adaptive"])
        whole = {"share": 0, "schedule": "adaptive", key: value} if adaptive else {key: value}
        fault = fault_of(lambda: student_text_of(whole), TypeError)
    return None if fault is None else _bare(fault, key)


def _bare(fault: str, key: str) -> str:
    """The fault without the key's own name in front."""
    head, sign, rest = fault.partition(": ")
    return rest if sign and head.split(".")[-1] == key else fault


def _together(sections: Mapping[str, Any]) -> Iterator[str]:
    """What the trainer says of every method's settings together, once each is right in itself."""
    from abkd.config._lm import LmRecipe
    from abkd.config._lm_job import LmJob
    from abkd.lm import METHODS, lm_config

    if {"data", "student", "teacher", "method"} - set(sections):
        return
    kept = {name: value for name, value in sections.items() if value is not None}
    spec = LmRecipe.model_construct(**{"teacher": None, "divergence": None, **kept})
    job, teacher = LmJob(spec), sections["teacher"]
    for method in dict.fromkeys([spec.method, *(spec.compare.methods or ())]):
        try:
            config = lm_config(job.run(method, 0), "unused")
        except ValueError as error:  # InputError, and what transformers raises
            yield f"method {method}: {error}"
            continue
        writes = config.teacher_sampling() is not None
        if (config.objective().needs_teacher or writes) and teacher is None:
            yield f"teacher: required by {method} and not given; add the section, or use method: sft"
        if teacher is None or teacher.cache is None:
            continue
        if METHODS[method].divergence is not None and config.student_sampling() is not None:
            yield f"teacher.cache: {method} trains on text that the student writes, which is in no cache"
        if writes:
            yield f"teacher.cache: {method} trains on text that the teacher writes, so give teacher.model alone"
        elif config.objective().needs_teacher and (fault := _cache_fault(teacher.cache, config)) is not None:
            yield f"teacher.cache: {fault}"


def _cache_fault(folder: str, config: DistillationConfig) -> str | None:
    """Why a cache cannot serve a method's loss."""
    from abkd.lm._setup import check_cache
    from abkd.teachers import LmCache

    return fault_of(lambda: check_cache(LmCache.open(folder, verify=False), config.objective()))
