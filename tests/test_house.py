"""The house: nothing imports upward, the mathematics needs torch alone, and the public names stay."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import abkd

SOURCE = Path(abkd.__file__).parent
FLOORS = (
    ("errors",),
    ("storage", "divergences"),
    ("losses",),
    ("teachers",),
    ("engine",),
    ("image", "lm"),
    ("study",),
    ("config",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TORCH_ALONE = ("errors", "divergences", "losses")


def imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute in this house"
            found.add(node.module or "")
            if node.module == "abkd":
                found |= {f"abkd.{alias.name}" for alias in node.names}
    return found


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "abkd" and parts[1] in FLOOR else None


FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem in FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_imports_upward(path: Path) -> None:
    here = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert here in FLOOR, f"{here} has no floor: add it to FLOORS"
    for module in imports(path):
        room = room_of(module)
        if room is None or room == here:
            continue
        assert FLOOR[room] < FLOOR[here], f"{path.name} in {here} imports {module}"


@pytest.mark.parametrize("room", TORCH_ALONE)
def test_the_mathematics_imports_torch_alone(room: str) -> None:
    for path in [SOURCE / f"{room}.py"] if (SOURCE / f"{room}.py").exists() else (SOURCE / room).rglob("*.py"):
        for module in imports(path):
            top = module.split(".")[0]
            assert top in {"abkd", "torch", "triton"} or top in sys.stdlib_module_names, f"{path.name} imports {module}"


def test_import_abkd_brings_no_heavy_package() -> None:
    heavy = (
        "torch._dynamo",
        "transformers",
        "torchvision",
        "timm",
        "datasets",
        "accelerate",
        "matplotlib",
        "rich",
        "typer",
        "pydantic",
    )
    code = f"import sys, abkd; print([name for name in {heavy!r} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_public_names() -> None:
    members = "AlphaBeta ForwardKL ReverseKL Jeffreys JensenShannon SkewForwardKL SkewReverseKL TotalVariation"
    others = "Hellinger SquaredEuclidean Renyi divergence_loss ABKDLoss"
    for name in f"{members} {others}".split():
        assert name in abkd.__all__
        assert getattr(abkd, name).__doc__
    assert isinstance(abkd.divergences.ALL, tuple)
    for name in abkd.__all__:
        assert getattr(abkd, name) is not None
