"""What a run of any task leaves, and what of it counts as its time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from abkd.engine import Measured, OpenRun, RunFolder, alone, load_result, on_main, place_of
from abkd.errors import CorruptFileError, ElsewhereError, InputError, RunExistsError
from abkd.storage import staged_folder


@dataclass(frozen=True)
class Settings:
    method: str = "kd"
    seed: int = 1
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.method, "seed": self.seed}


class Trainer:
    """Stands for a trainer: notes what it is asked for."""

    best: Any = None

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


def test_checkpoints_left_by_a_kill_after_the_result_are_removed(tmp_path: Path) -> None:
    carried_out(OpenRun.check(Settings(), tmp_path / "run", resume=False, overwrite=False), Trainer())
    (tmp_path / "run/checkpoints/checkpoint-2").mkdir(parents=True)
    assert OpenRun.check(Settings(), tmp_path / "run", resume=True, overwrite=False).finished() is not None
    assert not (tmp_path / "run/checkpoints").exists()


def test_the_best_value_inside_an_epoch_is_of_that_epoch(tmp_path: Path) -> None:
    trainer = Trainer()
    trainer.best = SimpleNamespace(select_by="nll", value=1.0, epoch=0.4)
    trainer.state.log_history.insert(0, {"epoch": 0.4, "eval_loss": 1.5, "eval_nll": 1.0})
    run = OpenRun.check(Settings(), tmp_path / "run", resume=False, overwrite=False)
    assert carried_out(run, trainer).best_epoch == 1


def test_a_model_that_only_reads_goes_where_its_run_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    assert place_of({}) == torch.device("cuda", 0)
    assert place_of({"use_cpu": True}) == torch.device("cpu")


def test_a_finished_run_with_damaged_files_is_not_taken_for_sound(tmp_path: Path) -> None:
    place = tmp_path / "run"
    carried_out(OpenRun.check(Settings(), place, resume=False, overwrite=False), Trainer())
    with staged_folder(place / "best") as folder:
        (folder / "weights").write_bytes(b"abc")
    again = OpenRun.check(Settings(), place, resume=True, overwrite=False)
    assert again.finished() is not None
    (place / "best/weights").write_bytes(b"abd")
    with pytest.raises(CorruptFileError, match=r"best/weights: its content has changed.*remove the folder .*run"):
        again.finished()
    (place / "result.json").write_text('{"seed": 1')
    with pytest.raises(CorruptFileError, match=r"result\.json: expected JSON.*remove the folder .*run"):
        again.finished()


def test_data_that_changed_since_are_refused(tmp_path: Path) -> None:
    run = OpenRun.check(Settings(), tmp_path / "run", resume=False, overwrite=False)
    run.on_data({"train": "a", "validation": "b"})
    run.begin()
    again = OpenRun.check(Settings(), tmp_path / "run", resume=True, overwrite=False)
    again.on_data({"train": "a", "validation": "b"})
    with pytest.raises(InputError, match="the train data has changed since the run was started"):
        again.on_data({"train": "c", "validation": "b"})
    anew = OpenRun.check(Settings(), tmp_path / "run", resume=False, overwrite=True)
    anew.on_data({"train": "c"})
    anew.begin()
    assert RunFolder(tmp_path / "run").data() == {"train": "c"}


def test_a_teacher_that_changed_since_is_refused_where_it_was_noted(tmp_path: Path) -> None:
    run = OpenRun.check(Settings(), tmp_path / "run", resume=False, overwrite=False)
    run.on_data({"train": "a"})
    run.begin()
    again = OpenRun.check(Settings(), tmp_path / "run", resume=True, overwrite=False)
    again.on_data({"train": "a", "teacher": "t", "test set dolly": "d"})
    with pytest.raises(InputError, match="the validation data has changed since the run was started"):
        again.on_data({"train": "a", "validation": "b"})
    again.on_data({"train": "a", "teacher": "t", "test set dolly": "d"})
    again.begin()
    said = "the train data and the teacher and the test set dolly has changed"
    with pytest.raises(InputError, match=said):
        again.on_data({"train": "c", "teacher": "u", "test set dolly": "e"})


def test_another_process_is_kept_from_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    opens = f"""
from test_runs import OpenRun, Settings
with OpenRun.opened(Settings(), {str(folder)!r}, resume=True, overwrite=False) as run:
    run.begin()
"""
    command = [sys.executable, "-c", opens]

    def elsewhere() -> str:
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stderr

    with OpenRun.opened(Settings(), folder, resume=False, overwrite=False) as run:
        assert "another process is using this folder" in elsewhere()
        run.begin()
        assert "another process is using this folder" in elsewhere()
    assert [entry.name for entry in folder.parent.iterdir()] == ["a"]
    assert elsewhere() == ""


def test_a_run_begins_once(tmp_path: Path) -> None:
    run = OpenRun.check(Settings(), tmp_path, resume=False, overwrite=False)
    run.begin()
    (tmp_path / "answers").mkdir()
    carried_out(run, Trainer())
    assert (tmp_path / "answers").is_dir()


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """This is the second of two processes, and hears from the first what is in the list, then nothing."""
    heard: list[list[Any]] = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)

    def broadcast(given: list[Any]) -> None:
        given[:] = heard.pop(0) if heard else [None, None]

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)
    return heard


def test_other_processes_than_the_first_write_nothing(tmp_path: Path, second: list[list[Any]]) -> None:
    run = OpenRun.check(Settings(), tmp_path / "run", resume=False, overwrite=False)
    assert carried_out(run, Trainer()).metrics == {"test": {"best": {"nll": 1.0}}}
    assert not (tmp_path / "run").exists()


def test_the_others_get_what_the_first_process_found(second: list[list[Any]]) -> None:
    second += [[{"nll": 1.0}, None], [None, ("no such folder", 2)]]
    assert on_main(lambda: pytest.fail("the second process did the work")) == {"nll": 1.0}
    with pytest.raises(ElsewhereError, match="no such folder") as caught:
        on_main(lambda: None)
    assert caught.value.exit_code == 2


def test_an_error_of_the_first_process_is_told_to_the_others(
    second: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", told.extend)

    def fails() -> None:
        raise InputError("no such folder")

    with pytest.raises(InputError, match="no such folder"):
        on_main(fails)
    assert told == [None, ("no such folder", 2)]


def test_what_one_process_does_refuses_two(second: list[list[Any]]) -> None:
    with pytest.raises(InputError, match="a cache is made for one process, and 2 were launched"):
        alone("a cache")
