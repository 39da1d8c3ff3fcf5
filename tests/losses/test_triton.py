"""The Triton kernels, without a GPU: interpreted on the CPU, and compiled for NVIDIA's sm_90 and AMD's gfx942."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

HERE = Path(__file__).parent


def run(script: str, **environment: str) -> str:
    """What a script prints, in a process of its own: the interpreter has to be on before a kernel is imported."""
    done = subprocess.run(
        [sys.executable, str(HERE / script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE), **environment},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_interpreted_kernels_give_the_eager_result() -> None:
    assert run("triton_interpreted.py", TRITON_INTERPRET="1").splitlines()[-1] == "36 agree"


def test_kernels_compile_for_devices_that_are_not_here(tmp_path: Path) -> None:
    lines = run("triton_compiled.py", TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0").splitlines()
    assert len([line for line in lines if line.startswith("cuda sm_90")]) == 5
    assert len([line for line in lines if line.startswith("hip gfx942")]) == 5
    assert not [line for line in lines if "double precision" in line]
