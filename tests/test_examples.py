"""Each example runs as a user would run it, without a warning, and ends with a sensible accuracy."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDS = {"lightning_module": "lightning", "timm_student": "timm"}
LOWEST = {"plain_loop": 0.7, "image_trainer": 0.7, "timm_student": 0.7, "lightning_module": 0.6}


def test_every_example_is_known_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(LOWEST)


@pytest.mark.parametrize("name", sorted(LOWEST))
def test_runs(name, tmp_path):
    pytest.importorskip(NEEDS.get(name, "sklearn"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    shares = [float(found) / 100 for found in re.findall(r"([\d.]+)%", done.stdout)]
    shares += [float(found) for found in re.findall(r"'accuracy': ([\d.]+)", done.stdout)]
    assert shares, done.stdout
    assert min(shares) > LOWEST[name]
    assert not list(tmp_path.iterdir())
