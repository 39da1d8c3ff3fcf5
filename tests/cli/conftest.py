"""A tiny recipe that trains in a second, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from abkd.cli import main

RECIPE = """
data: {name: digits, validation: 100, train_size: 40, augment: none}
teacher:
  model: cnn
  options: {widths: [4], hidden: 8}
  training: {num_train_epochs: 1}
  cache: memory
student: {model: cnn, options: {widths: [2], hidden: 0}}
method: kd
training: {num_train_epochs: 2, per_device_train_batch_size: 20, save_strategy: "no"}
seeds: [1]
compare: {methods: [sft, abkd], seeds: [1, 2]}
output: out
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE)
    return file


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process: exit code, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["abkd", *words])
        code = main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
