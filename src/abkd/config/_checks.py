"""What one section of an image recipe must say for another to be right, looked up before anything loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from abkd.config._facts import class_count, data_problem, model_problems, saved_class_count
from abkd.config._image import Compare, Data, Divergence, MethodSettings, Student, Teacher
from abkd.config._methods import method_names, method_problems, needs_teacher
from abkd.config._training import check_training
from abkd.errors import InputError, nearest


def check_image(sections: Mapping[str, Any]) -> list[str]:
    """One line for each fault between sections.

    Args:
        sections: Sections by name, each right in itself; one that is not is left out.
    """
    return [
        *_methods(sections),
        *_data(sections.get("data")),
        *_student(sections.get("student"), sections.get("data")),
        *_teacher(sections),
        *_training(sections),
    ]


def _methods(sections: Mapping[str, Any]) -> Iterator[str]:
    method: str | None = sections.get("method")
    compare: Compare = sections.get("compare") or Compare()
    if method is not None:
        divergence: Divergence | None = sections.get("divergence")
        loss: Mapping[str, Any] = sections.get("loss") or {}
        yield from method_problems(method, MethodSettings(divergence=divergence, loss=dict(loss)), "method", "")
    for place, name in enumerate(compare.methods or ()):
        if name not in method_names():
            yield f"compare.methods.{place}: no such method as {name!r}; {nearest(name, method_names())}"
    for name, settings in compare.settings.items():
        path = f"compare.settings.{name}"
        yield from method_problems(name, settings, path, f"{path}.")


def _data(data: Data | None) -> Iterator[str]:
    if data is not None:
        problem = _no_name("data.name", data.name) if data.name.endswith(":") else data_problem(data)
        if problem:
            yield problem
        for key in data.options:
            if key in Data.model_fields:
                yield f"data.options.{key}: write it as data.{key}"


def _no_name(path: str, written: str) -> str:
    return f"{path}: {written!r} says where to look and not for what; write a name after the colon"


def _student(student: Student | None, data: Data | None) -> Iterator[str]:
    if student is not None and student.model.endswith(":"):
        yield _no_name("student.model", student.model)
    elif student is not None:
        yield from model_problems(
            student.model, student.options, class_count(data) if data else None, "student", student.pretrained
        )


def _teacher(sections: Mapping[str, Any]) -> Iterator[str]:
    if "teacher" not in sections:
        return  # wrong in itself, which has been said
    teacher: Teacher | None = sections["teacher"]
    if teacher is None:
        yield from _teacherless(sections)
        return
    data: Data | None = sections.get("data")
    classes = class_count(data) if data else None
    if teacher.model is not None and teacher.model.endswith(":"):
        yield _no_name("teacher.model", teacher.model)
    elif teacher.model is not None:
        yield from model_problems(teacher.model, teacher.options, classes, "teacher", teacher.pretrained)
    if teacher.weights is not None and not Path(teacher.weights).is_file():
        yield f"teacher.weights: no such file: {teacher.weights}"
    if teacher.path is None:
        return
    try:
        saved = saved_class_count(teacher.path)
    except InputError as error:
        yield f"teacher.path: {error}"
        return
    if saved is not None and classes is not None and saved != classes:
        yield (
            f"teacher.path: the teacher tells {saved} classes apart, the data has {classes}; "
            "choose a teacher trained on the same classes"
        )


def _teacherless(sections: Mapping[str, Any]) -> Iterator[str]:
    compare: Compare = sections.get("compare") or Compare()
    named = [sections.get("method"), *(compare.methods or ())]
    wanting = sorted({name for name in named if name in method_names() and needs_teacher(name)})
    if wanting:
        yield f"teacher: required by {', '.join(wanting)} and not given; add the section, or use method: sft"


def _training(sections: Mapping[str, Any]) -> Iterator[str]:
    teacher: Teacher | None = sections.get("teacher")
    each: dict[str, Mapping[str, Any]] = {"training": sections.get("training") or {}}
    if teacher is not None and teacher.training is not None:
        each["teacher.training"] = teacher.training
    for path, training in each.items():
        yield from check_training(training, path)[1]
        yield from _choice(training, path, sections.get("data"))


def _choice(training: Mapping[str, Any], path: str, data: Data | None) -> Iterator[str]:
    """A choice of the epoch without images to choose it by, and images to choose by that are never looked at."""
    if data is None:
        return
    if data.validation == 0:
        for key in ("select_by", "eval_strategy", "eval_on_start"):
            if training.get(key) not in (None, False, "no"):
                yield f"{path}.{key}: needs validation images, and data.validation is 0: hold some out, or leave it out"
    elif path == "training" and training.get("eval_strategy") == "no":
        yield (
            f"{path}.eval_strategy: 'no' contradicts data.validation, by whose images the epoch is chosen: leave it "
            "out, or set data.validation to 0"
        )
