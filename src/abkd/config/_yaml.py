"""Reading YAML strictly: duplicate keys are faults, `5e-4` is a number, `no` is a word."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

import yaml

from abkd.errors import RecipeError

# YAML 1.2's core schema instead of PyYAML's 1.1, where `5e-4` is text, `no` is false and `010` is eight.
_FLOAT = r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$"
_WORDS: tuple[tuple[str, str, str], ...] = (
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("tag:yaml.org,2002:float", _FLOAT + r"|^\.(?:nan|NaN|NAN)$", "-+.0123456789"),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", "~nN"),
)


class _Loader(yaml.SafeLoader):
    """Safe YAML that notes duplicate keys instead of letting the last one win."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.faults: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a repeated key becomes a fault that names both lines; its first value stays."""
        lines: dict[str, int] = {}
        unique: list[tuple[yaml.Node, yaml.Node]] = []
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.faults.append(f"line {line}: expected a plain word as a key, got a {key.id}")
            elif key.value in lines:
                first = lines[key.value]
                self.faults.append(f"line {line}: the key {key.value!r} is already given on line {first}; keep one")
            else:
                lines[key.value] = line
                unique.append((key, value))
        node.value = unique
        return super().construct_mapping(node, deep=deep)


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    try:
        return int(text)
    except ValueError:  # Python refuses thousands of digits
        raise yaml.constructor.ConstructorError(
            None, None, f"a number of {len(str(text))} digits is too long", node.start_mark
        ) from None


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
for _tag, _pattern, _first in _WORDS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))
_Loader.yaml_implicit_resolvers.setdefault("", []).append(("tag:yaml.org,2002:null", re.compile(r"^$")))


def parse_yaml(text: str) -> tuple[Any, list[str]]:
    """Parse one YAML document by the core schema of YAML 1.2.

    Returns:
        The value, and the faults that do not stop reading (keys given twice), one line each.

    Raises:
        RecipeError: The text is not YAML; the message holds the line and column.
    """
    try:
        return _read(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the text"
        raise RecipeError([f"{where}: not valid YAML: {error.problem or error.context}"]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError([f"line {line}: not valid YAML: the character U+{error.character:04X}; remove it"]) from error
    except yaml.YAMLError as error:
        raise RecipeError([f"not valid YAML: {error}"]) from error
    except RecursionError as error:
        raise RecipeError(["not a recipe: its lists and mappings lie too deep in one another"]) from error


def _read(text: str) -> tuple[Any, list[str]]:
    loader = _Loader(text)
    try:
        return loader.get_single_data(), loader.faults
    finally:
        loader.dispose()


def apply_overrides(recipe: dict[str, Any], overrides: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """A copy of `recipe` with `a.b=value` written over it, values read as YAML.

    Args:
        recipe: The recipe as nested mappings; left as it is.
        overrides: Words such as `divergence.alpha=0.3`, `seeds=[1,2]` or `teacher.path=runs/teacher`.

    Returns:
        The new recipe, and one line for each override that cannot be read or placed.
    """
    result = _copy(recipe)
    faults: list[str] = []
    for override in overrides:
        path, sign, text = override.partition("=")
        keys = path.split(".")
        if not sign or not all(keys):
            faults.append(f"{override}: expected key=value with a dotted key, such as divergence.alpha=0.3")
            continue
        try:
            value, inner = parse_yaml(text)
        except RecipeError as error:
            faults.append(f"{path}: the value {text!r} is not YAML ({error.problems[0]})")
            continue
        faults += [f"{path}: {fault}" for fault in inner]
        place: Any = result
        for key in keys[:-1]:
            if place.get(key) is None:
                place[key] = {}
            place = place[key]
            if not isinstance(place, dict):
                faults.append(f"{path}: {key!r} holds {place!r}, not a mapping, so nothing can be set inside it")
                break
        else:
            place[keys[-1]] = value
    return result, faults


def _copy(value: Any) -> Any:
    """Nested mappings copied; everything else shared."""
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    return value
