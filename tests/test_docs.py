"""What the documents promise: their code runs and prints what they show, links lead somewhere, nothing is missing.

A fenced block opens with ```python and runs, in one namespace a document, in order. ```python fragment is only
shown. ```python needs=a,b runs where these packages are installed. A ```text block right after one is its output.
```yaml recipe is a whole recipe, which must be sound.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import pytest

import abkd
from abkd.image.objectives import METHODS

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
GUIDES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [*GUIDES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
FENCE = re.compile(
    r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ ]*$(?:\s*^```text\n(?P<shown>.*?)^```[ ]*$)?", re.M | re.S
)

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


@dataclass(frozen=True)
class Block:
    """A fenced Python block that is meant to run."""

    code: str
    line: int
    needs: tuple[str, ...]
    shown: str | None


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        language, *rest = match["info"].split() or [""]
        if language != "python" or "fragment" in rest:
            continue
        needs = [name for word in rest for name in word.removeprefix("needs=").split(",")]
        yield Block(match["body"], text[: match.start("body")].count("\n"), tuple(needs), match["shown"])


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.filterwarnings("ignore:.*(num_workers|does not have many workers|LeafSpec|TreeSpec|litlogger)")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
@pytest.mark.parametrize("path", [p for p in DOCUMENTS if any(blocks(p))], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_code_runs_and_prints_what_is_shown(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"document_{path.stem}")  # a module, so that dataclasses and pickling find their home
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(path):
        if any(importlib.util.find_spec(name) is None for name in block.needs):
            continue
        code = compile("\n" * block.line + block.code, str(path), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, module.__dict__)
        if block.shown is not None:
            assert printed.getvalue() == block.shown, f"{path.name}, line {block.line}"


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_recipes_are_sound(path: Path, tmp_path: Path) -> None:
    for match in FENCE.finditer(path.read_text(encoding="utf-8")):
        if match["info"].split() == ["yaml", "recipe"]:
            pytest.importorskip("pydantic")
            from abkd.config import load_recipe

            recipe = tmp_path / "recipe.yaml"
            recipe.write_text(match["body"], encoding="utf-8")
            load_recipe(str(recipe))


@pytest.mark.parametrize(("page", "task"), [("methods.md", "image"), ("language-models.md", "lm")])
def test_every_key_of_a_recipe_is_named(page: str, task: str) -> None:
    pytest.importorskip("pydantic")
    from abkd.config import _image, _lm

    room = _image if task == "image" else _lm
    recipe: Any = _image.ImageRecipe if task == "image" else _lm.LmRecipe
    names = {
        "image": ("Data", "Student", "Teacher", "Compare"),
        "lm": ("LmData", "LmStudent", "LmTeacher", "LmEvaluation", "LmCompare"),
    }
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    inside = {name.removeprefix("Lm").lower(): getattr(room, name).model_fields for name in names[task]}
    keys = [f"{section}.{key}" for section, fields in inside.items() for key in fields]
    keys += [key for key in recipe.model_fields if key not in {*inside, "task"}]
    assert [key for key in keys if f"`{key}`" not in text] == []


LITERAL = re.compile(r"`([^`]*)`|(?<![\w.])(\d[\d.e-]*|true|false)\b")


def tables(page: str) -> Iterator[tuple[list[str], list[str]]]:
    """Of each row of a page's tables of settings: the keys, and the values in the column of defaults."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for table in re.findall(r"^\| (?:key|setting) \| default .*\n(?:\|.*\n)+", text, re.M):
        for row in table.splitlines()[2:]:
            _, keys, given, *_ = row.split("|")
            yield re.findall(r"`([^`]*)`", keys), [quoted or bare for quoted, bare in LITERAL.findall(given)]


def shown(default: Any) -> list[str]:
    """How a table writes a default: a list by its ends; nothing for what is said in words."""
    if isinstance(default, list) and default:
        return [str(item) for item in dict.fromkeys([default[0], default[-1]])]
    if isinstance(default, bool):
        return [str(default).lower()]
    if isinstance(default, int | float):
        return [f"{default:g}"]
    return [default] if isinstance(default, str) and default else []


@pytest.mark.parametrize(("page", "task"), [("methods.md", "image"), ("language-models.md", "lm")])
def test_defaults_in_tables_are_those_of_the_code(page: str, task: str) -> None:
    pytest.importorskip("trl")
    from pydantic import BaseModel
    from pydantic_core import PydanticUndefined

    from abkd.config._image import ImageRecipe
    from abkd.config._lm import LmRecipe
    from abkd.lm._student_settings import StudentText

    recipe: type[BaseModel] = ImageRecipe if task == "image" else LmRecipe
    defaults: dict[str, Any] = {field.name: field.default for field in fields(StudentText)}
    for name, whole in recipe.model_fields.items():
        kinds = [kind for kind in (whole.annotation, *get_args(whole.annotation)) if isinstance(kind, type)]
        section = next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
        for inner, field in ({} if section is None else section.model_fields).items():
            defaults[f"{name}.{inner}"] = field.get_default(call_default_factory=True)
        defaults[name] = whole.get_default(call_default_factory=True)
    wrong: dict[str, Any] = {}
    rows = list(tables(page))
    assert rows
    for keys, given in rows:
        wanted = [word for key in keys if (value := defaults[key]) is not PydanticUndefined for word in shown(value)]
        if sorted(given) != sorted(wanted):
            wrong[", ".join(keys)] = {"table": given, "code": wanted}
    assert wrong == {}


@each_document
def test_commands_can_be_typed(path: Path) -> None:
    """Every line with `abkd` in a bash block is a command that exists, with options that it has."""
    typer = pytest.importorskip("typer")
    from abkd.cli import application

    known = typer.main.get_command(application()).commands
    for match in FENCE.finditer(path.read_text(encoding="utf-8")):
        if match["info"].strip() != "bash":
            continue
        for line in match["body"].splitlines():
            found = re.search(r"(?:^|-m )abkd (.*)", line)
            if found is not None:
                name, *words = shlex.split(found[1], comments=True)
                known[name].make_context(name, words)


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (path.parent / name).resolve() if name else path
        assert place.exists(), f"{path.name} links to {target}"
        if anchor:
            known = [slug(heading) for heading in re.findall(r"^#+ (.*)$", prose(place), re.M)]
            assert anchor in known, f"{path.name} links to {target}; headings there: {known}"


@each_document
def test_formulas_and_tables_are_whole(path: Path) -> None:
    """What breaks when Markdown is rendered: a lone $, escapes that Markdown eats, a bar that splits a table's row."""
    for paragraph in re.split(r"\n\s*\n", re.sub(r"`[^`\n]*`", "", prose(path))):
        assert paragraph.count("$") % 2 == 0, paragraph
        for formula in re.findall(r"\$([^$]+)\$", paragraph):
            assert formula.count("{") == formula.count("}"), formula
            assert not re.search(r"\\[^a-zA-Z]|[|*]|<\S|^\s|\s$", formula), formula
        rows = [line for line in paragraph.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, paragraph


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_described(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("member", abkd.divergences.ALL, ids=lambda member: type(member).__name__)
def test_every_divergence_is_described(member: abkd.Divergence) -> None:
    text = (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")
    assert re.search(rf"`{type(member).__name__}\b", text)
    if member.key in abkd.divergences.names():
        assert f"`{member.key}`" in text


def script(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, PICTURES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pictures_are_small_and_their_scripts_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for picture in PICTURES.glob("*.png"):
        scripts = picture.with_suffix(".py"), ROOT / "benchmarks" / f"{picture.stem}.py"
        made_by_demo = picture.stem == "demo"  # `make demo` draws it
        assert made_by_demo or any(path.exists() for path in scripts), f"{picture.name} has no script"
        assert picture.stat().st_size < 200_000
    assert script("alpha_beta_plane").main(tmp_path).stat().st_size > 10_000


def test_the_student_gives_up_the_smaller_mode_from_left_to_right() -> None:
    pytest.importorskip("matplotlib")
    two_modes = script("two_modes")
    fits = [two_modes.fit(alpha, beta, steps=150) for alpha, beta in two_modes.SETTINGS]
    deviations = [deviation for _, deviation in fits]
    assert deviations == sorted(deviations, reverse=True)
    assert deviations[0] > 2 * deviations[-1]
