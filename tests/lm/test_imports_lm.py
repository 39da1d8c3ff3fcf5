"""What importing the language room brings, and what is said where a package that it needs is missing."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("trl", "transformers", "datasets", "peft", "accelerate", "rouge_score")
LIGHT = ("METHODS", "LmRun", "LmData", "LmStudent", "LmTeacher", "LmEvaluation", "Method", "StudentText")
NEEDS_TRL = {"DistillationConfig", "DistillationTrainer", "lm_config", "load_lm_result", "run_lm"}


def said_by(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_and_settings_bring_no_heavy_package() -> None:
    code = f"""
import sys
import abkd.lm
from abkd.lm import {", ".join(LIGHT)}
assert METHODS and "DistillationTrainer" in dir(abkd.lm)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert said_by(code).strip() == "[]"


def test_what_needs_trl_names_the_extra_and_the_rest_works_without() -> None:
    code = """
import json, sys
sys.modules["trl"] = None
import abkd.lm
from abkd.errors import MissingPackageError
said = {}
for name in abkd.lm.__all__:
    try:
        getattr(abkd.lm, name)
    except MissingPackageError as error:
        said[name] = str(error)
print(json.dumps(said))
"""
    said = json.loads(said_by(code))
    assert set(said) == NEEDS_TRL
    for name, message in said.items():
        assert message.startswith(f"abkd.lm.{name} needs the package trl")
        assert message.endswith('pip install "abkd[lm]"')


def test_an_unknown_name_is_no_missing_package() -> None:
    code = """
import abkd.lm
try:
    abkd.lm.DistilationTrainer
except AttributeError as error:
    print(error)
"""
    assert "no attribute 'DistilationTrainer'" in said_by(code)
