"""The command line's surface is frozen: a change to it shows in the diff of help.txt.

After a change that is meant: ABKD_WRITE_HELP=1 pytest tests/cli/test_help.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from abkd.cli import commands

FROZEN = Path(__file__).with_name("help.txt")


def test_help_is_frozen(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    parts: list[str] = []
    for words in ([], *([name] for name in commands())):
        code, out, err = run(*words, "--help")
        assert (code, err) == (0, "")
        lines = "\n".join(line.rstrip() for line in out.splitlines())
        parts.append(f"$ {' '.join(['abkd', *words, '--help'])}\n{lines}\n")
    text = "\n".join(parts)
    if os.environ.get("ABKD_WRITE_HELP"):
        FROZEN.write_text(text)
    assert text == FROZEN.read_text()


def test_every_command_has_help_worth_reading() -> None:
    for name, (function, examples) in commands().items():
        assert function.__doc__, name
        assert len(function.__doc__.splitlines()[0]) <= 62, name
        assert all(example.startswith(f"abkd {name}") for example in examples), name
