"""What a run of any task leaves, and what of it counts as its time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from abkd.engine import Measured, OpenRun, load_result
from abkd.errors import InputError, RunExistsError


@dataclass(frozen=True)
class Settings:
    method: str = "kd"
    seed: int = 1

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.method, "seed": self.seed}


class Trainer:
    """Stands for a trainer: notes what it is asked for."""

    best = None

    def __init__(self) -> None:
        self.state = SimpleNamespace(log_history=[{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": 1.0}])
        self.accelerator = SimpleNamespace(wait_for_everyone=lambda: None)
        self.resumed: list[str | None] = []

    def train(self, checkpoint: str | None) -> None:
        self.resumed.append(checkpoint)


def carried_out(run: OpenRun, trainer: Trainer) -> Any:
    tested = Measured({"best": {"nll": 1.0}}, {"nll": 0.5})
    sizes: dict[str, int | None] = {"student": 3, "teacher": None}
    return run.carry_out(cast("Any", trainer), lambda: tested, parameters=sizes, progress=False)


def test_a_run_is_written_when_it_begins_and_timed_from_there(tmp_path: Path) -> None:
    run = OpenRun.check(Settings(), tmp_path / "run", resume=False, overwrite=False)
    assert run.finished() is None
    assert not (tmp_path / "run").exists()
    time.sleep(0.5)
    trainer = Trainer()
    result = carried_out(run, trainer)
    assert result.seconds < 0.5
    assert (result.best_epoch, result.metrics["test"], result.teacher) == (2, {"best": {"nll": 1.0}}, {"nll": 0.5})
    assert trainer.resumed == [None]
    assert load_result(tmp_path / "run") == result
    again = OpenRun.check(Settings(), tmp_path / "run", resume=True, overwrite=False)
    assert again.finished() == result
    with pytest.raises(RunExistsError):
        OpenRun.check(Settings(), tmp_path / "run", resume=False, overwrite=False)
    with pytest.raises(InputError, match="seed was 1, now 2"):
        OpenRun.check(Settings(seed=2), tmp_path / "run", resume=True, overwrite=False)


def test_a_run_begins_once(tmp_path: Path) -> None:
    run = OpenRun.check(Settings(), tmp_path, resume=False, overwrite=False)
    run.begin()
    (tmp_path / "answers").mkdir()
    carried_out(run, Trainer())
    assert (tmp_path / "answers").is_dir()


def test_other_processes_than_the_first_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    run = OpenRun.check(Settings(), tmp_path / "run", resume=False, overwrite=False)
    assert carried_out(run, Trainer()).metrics == {}
    assert not (tmp_path / "run").exists()
