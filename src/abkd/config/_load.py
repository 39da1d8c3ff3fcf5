"""From a YAML file to a checked recipe, or to every fault in it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from abkd.config._checks import check_image
from abkd.config._checks_lm import check_lm
from abkd.config._faults import keys_at, lines, named_once, show
from abkd.config._image import ImageRecipe, TaskRecipe
from abkd.config._image_job import ImageJob
from abkd.config._lm import LmRecipe
from abkd.config._lm_job import LmJob
from abkd.config._recipe import Recipe
from abkd.config._shipped import find_recipe
from abkd.config._yaml import apply_overrides, parse_yaml
from abkd.errors import RecipeError, nearest


class Task(NamedTuple):
    """What there is to know of a task.

    Attributes:
        model: its sections.
        check: what one section must say for another to be right.
        job: the class of a checked recipe.
        fillers: stand in for required sections while the others are looked at.
    """

    model: type[TaskRecipe]
    check: Callable[[Mapping[str, Any]], list[str]]
    job: Callable[[Any, str], Recipe]
    fillers: Mapping[str, Any]


TASKS: dict[str, Task] = {
    "image": Task(ImageRecipe, check_image, ImageJob, {"data": {"name": "digits"}, "student": {"model": "cnn"}}),
    "lm": Task(LmRecipe, check_lm, LmJob, {"data": {"train": "dolly"}, "student": {"model": "student"}}),
}


# The sections that belong to the recipe's own method.
OF_METHOD = ("divergence", "loss", "student_text", "teacher_text")


def load_recipe(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe; nothing is loaded, built or downloaded.

    Args:
        path: A YAML file, or the name of a recipe that comes with abkd (`quickstart/image`). Paths inside a
            recipe are taken from the current folder.
        overrides: Words `dotted.path=value`, applied in order; values are YAML. One that changes `method` leaves
            the file's `divergence` and `loss` (and those of text) to the old method, as its `compare.settings`.

    Raises:
        RecipeError: Everything that is wrong with it, one line each.
        MissingPackageError: A package that the task needs is not installed.
    """
    file = find_recipe(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"cannot be read: {error}"], str(path)) from error
    try:
        value, faults = parse_yaml(text)
    except RecipeError as error:
        raise RecipeError(error.problems, str(path)) from error
    if not isinstance(value, dict):
        raise RecipeError([f"expected a mapping of sections such as data, student, got {show(value)}"], str(path))
    raw, more = _overridden(cast("dict[str, Any]", value), list(overrides))
    return _checked(raw, str(path), [*faults, *more])


def parse_recipe(value: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Check a recipe that is already a mapping, as `load_recipe` does.

    Raises:
        RecipeError: Everything that is wrong with it, one line each.
    """
    return _checked(dict(value), source, [])


def _overridden(recipe: dict[str, Any], overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The recipe with overrides, and what is wrong with them.

    What the file says of its own method stays with that method where an override names another; what is overridden
    of a method's sections counts wherever the recipe sets that method, `compare.settings` included.
    """
    old = recipe.get("method", TaskRecipe.model_fields["method"].default)
    method = apply_overrides({"method": old}, [word for word in overrides if word.startswith("method=")])[0]["method"]
    if method != old:
        recipe = _left_to(old, recipe)
    raw, faults = apply_overrides(recipe, overrides)
    compare = raw.get("compare")
    settings: Any = cast("dict[str, Any]", compare).get("settings") if isinstance(compare, dict) else None
    if faults or not isinstance(settings, dict) or not isinstance(method, str) or method not in settings:
        return raw, faults
    own = cast("dict[str, Any]", settings)[method]
    trains = isinstance(own, dict) and "training" in own
    heads = (*OF_METHOD, "training") if trains else OF_METHOD
    again = [word for word in overrides if word.partition("=")[0].split(".")[0] in heads]
    return apply_overrides(raw, [f"compare.settings.{method}.{word}" for word in again])


def _left_to(method: Any, recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the sections of its own method moved to `compare.settings`, unless they are there already."""
    rest = {key: value for key, value in recipe.items() if key not in OF_METHOD}
    own = {key: recipe[key] for key in OF_METHOD if recipe.get(key)}
    compare: Any = {} if rest.get("compare") is None else rest["compare"]
    settings: Any = compare.get("settings") or {} if isinstance(compare, dict) else None
    if not own or not isinstance(method, str) or not isinstance(settings, dict) or method in settings:
        return rest
    return {**rest, "compare": {**compare, "settings": {**settings, method: own}}}


def _checked(raw: dict[str, Any], source: str, faults: list[str]) -> Recipe:
    task = raw.get("task", "image")
    if not isinstance(task, str) or task not in TASKS:
        faults.append(f"task: no such task as {show(task)}; {nearest(str(task), TASKS)}")
        raise RecipeError(faults, source)
    if "task" not in raw and (only := _of_language(raw)):
        fault = f"task: not given, which means image, but {', '.join(only)} belong to language recipes: write task: lm"
        raise RecipeError([*faults, fault], source)
    model, check, job, _ = TASKS[task]
    spec = None
    try:
        spec = model.model_validate(raw)
        faults += check({name: getattr(spec, name) for name in model.model_fields})
    except ValidationError as error:
        faults += lines(error, model)
        faults += check(_sound_sections(raw, TASKS[task], error))
    said = {fault.partition(":")[0] for fault in faults}
    faults += [
        fault for path, fault in _infinite(raw) if not any(path == one or path.startswith(f"{one}.") for one in said)
    ]
    if spec is None or faults:
        raise RecipeError([named_once(fault) for fault in faults], source) from None
    return job(spec, source)


def _of_language(raw: Mapping[str, Any]) -> list[str]:
    """Keys that only language recipes have, in a recipe that has none which only image recipes have."""
    only: dict[str, list[str]] = {}
    for task, other in (("lm", "image"), ("image", "lm")):
        model, rival = TASKS[task].model, TASKS[other].model
        only[task] = [key for key in raw if key in model.model_fields and key not in rival.model_fields]
        for section in ("data", "teacher", "student"):
            own, theirs = keys_at(model, (section,)), keys_at(rival, (section,))
            held = raw.get(section)
            if isinstance(held, dict):
                keys = map(str, cast("dict[Any, Any]", held))
                only[task] += [f"{section}.{key}" for key in keys if key in own and key not in theirs]
    return [] if only["image"] else only["lm"]


def _infinite(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every number in nested values that is not finite: its path, and a line that says so."""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inner = cast("dict[Any, Any]", value).items()
    elif isinstance(value, list):
        inner = enumerate(cast("list[Any]", value))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"{path}: expected a finite number, got {value}"
    for key, item in inner:
        yield from _infinite(item, f"{path}.{key}" if path else str(key))


def _sound_sections(raw: Mapping[str, Any], task: Task, error: ValidationError) -> dict[str, Any]:
    """What is right in itself (defaults included), so that one fault hides no other.

    A faulty key is left out of its section; a section that is wrong as a whole is left out.
    """
    model = task.model
    kept = {key: {**value} if isinstance(value, dict) else value for key, value in raw.items()}
    for fault in error.errors(include_url=False):
        section, *inner = fault["loc"]
        held = kept.get(str(section))
        if inner and isinstance(held, dict):
            cast("dict[Any, Any]", held).pop(inner[0], None)
        else:
            kept.pop(str(section), None)
    sound: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name in kept:
            try:
                sound[name] = getattr(model.model_validate({**task.fillers, name: kept[name]}), name)
            except ValidationError:
                continue
        elif name not in raw and not field.is_required():
            sound[name] = field.get_default(call_default_factory=True)
    return sound
