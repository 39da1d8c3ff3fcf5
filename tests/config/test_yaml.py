"""Strict YAML: numbers by the core schema, no silent duplicates, overrides by dotted path."""

from __future__ import annotations

import pytest

from abkd.config._yaml import apply_overrides, parse_yaml
from abkd.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("010", 10),
        ("-3", -3),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("", None),
        ("1.2.3", "1.2.3"),
        ("2024-01-01", "2024-01-01"),
        ("12:30:00", "12:30:00"),
        ("[1, 2.0, x]", [1, 2.0, "x"]),
        ("{from: 1.0, to: 2e-1}", {"from": 1.0, "to": 0.2}),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    parsed, faults = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)
    assert faults == []


def test_a_key_given_twice_is_a_fault_with_both_lines_and_the_first_stays() -> None:
    value, faults = parse_yaml("a: 1\nb: {c: 1, c: 2}\na: 2\n")
    assert value == {"a": 1, "b": {"c": 1}}
    assert len(faults) == 2
    assert any("line 3" in fault and "line 1" in fault for fault in faults)


@pytest.mark.parametrize(
    "text", ["a: [1", "a: b: c", "\ta: 1", "- 1\na: 2", "a: !!python/object:os.x {}", "a: 1\n---\nb: 2", "a: b\x07"]
)
def test_what_is_not_plain_yaml_is_one_error_with_its_line(text: str) -> None:
    with pytest.raises(RecipeError, match=r"line \d"):
        parse_yaml(text)


def test_overrides_reach_into_sections_and_leave_the_recipe_alone() -> None:
    recipe = {"divergence": {"alpha": 0.1, "beta": 0.2}, "seeds": [1]}
    new, faults = apply_overrides(
        recipe, ["divergence.alpha=0.3", "seeds=[1, 2]", "a.b.c=5e-4", "divergence.beta={from: 1, to: 0}"]
    )
    assert faults == []
    assert new["divergence"] == {"alpha": 0.3, "beta": {"from": 1, "to": 0}}
    assert new["seeds"] == [1, 2]
    assert new["a"] == {"b": {"c": 5e-4}}
    assert recipe == {"divergence": {"alpha": 0.1, "beta": 0.2}, "seeds": [1]}


def test_every_bad_override_is_named() -> None:
    _, faults = apply_overrides({"seeds": [1]}, ["novalue", "=3", "a..b=1", "seeds.x=1", "a=[1", "a=b=c"])
    assert len(faults) == 5
    assert any("seeds" in fault and "not a mapping" in fault for fault in faults)
