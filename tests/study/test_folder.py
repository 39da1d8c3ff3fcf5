"""The folder of a study: what --overwrite replaces is lost only when there is a finished run in its place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from abkd.errors import InputError, RunExistsError
from abkd.study import Column, StudyPlan
from abkd.study._folder import begun, opened, set_aside


@dataclass(frozen=True)
class Settings:
    method: str = "a"
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.method}


class Plan(StudyPlan[Settings]):
    def columns(self) -> tuple[Column, ...]:
        return (Column("accuracy", "accuracy"),)

    def note(self) -> str:
        return ""

    def trained(self, folder: Path) -> Any:
        return str(folder)

    def work(self, place: Path, progress: bool) -> Any:
        raise AssertionError("these tests run nothing")


PLAN = Plan({"a": {1: Settings()}})


def write(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"method": "a"}')


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A finished study."""
    folder = tmp_path / "out"
    write(folder, "comparison.json", "runs/a/seed-1/run.json", "runs/a/seed-1/result.json", "old")
    return folder


def killed(place: Path, *names: str) -> None:
    """What a study that replaces the one in `place` leaves when it is killed after writing these files."""
    place.rename(set_aside(place))
    write(place, *names)


MODES: list[dict[str, bool]] = [{}, {"resume": True}, {"overwrite": True}]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("left", [(), ("comparison.json", "recipe.yaml")], ids=str)
def test_killed_before_a_run_began_the_old_one_comes_back(
    place: Path, mode: dict[str, bool], left: tuple[str, ...]
) -> None:
    killed(place, *left)
    with suppress(RunExistsError), opened(place, PLAN, **mode):
        assert mode
        assert (place / "old").exists() == (mode == {"resume": True})
    assert (place / "old").exists()
    assert not set_aside(place).exists()


def test_killed_in_its_first_run_it_goes_on_and_the_old_one_stays_until_that_is_finished(place: Path) -> None:
    killed(place, "comparison.json", "runs/a/seed-1/run.json")
    with pytest.raises(RunExistsError), opened(place, PLAN):
        pass
    with pytest.raises(KeyboardInterrupt), opened(place, PLAN, resume=True):
        raise KeyboardInterrupt
    assert (set_aside(place) / "old").exists()
    with opened(place, PLAN, resume=True):
        write(place, "runs/a/seed-1/result.json")
    assert not set_aside(place).exists()
    assert not (place / "old").exists()


def test_killed_in_its_first_run_and_begun_anew_the_oldest_is_kept(place: Path) -> None:
    killed(place, "comparison.json", "runs/a/seed-1/run.json", "new")
    with opened(place, PLAN, overwrite=True):
        assert not (place / "new").exists()
    assert (place / "old").exists()
    assert not set_aside(place).exists()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_killed_when_a_run_was_finished_the_old_one_goes(place: Path, mode: dict[str, bool]) -> None:
    killed(place, "comparison.json", "runs/a/seed-1/run.json", "runs/a/seed-1/result.json")
    with suppress(RunExistsError), opened(place, PLAN, **mode):
        write(place, "runs/a/seed-1/run.json", "runs/a/seed-1/result.json")
    assert (place / "runs/a/seed-1/result.json").is_file()
    assert not (place / "old").exists()
    assert not set_aside(place).exists()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_files_that_are_no_study_are_left_alone(place: Path, mode: dict[str, bool]) -> None:
    killed(place, "thesis.txt")
    with pytest.raises(InputError, match="no comparison"), opened(place, PLAN, **mode):
        pass
    assert (place / "thesis.txt").exists()
    assert (set_aside(place) / "old").exists()


def test_a_second_start_leaves_a_running_overwrite_alone(place: Path, tmp_path: Path) -> None:
    opens = f"""
from pathlib import Path
from test_folder import PLAN, opened
with opened(Path({str(place)!r}), PLAN, resume=True):
    pass
"""
    command = [sys.executable, "-c", opens]
    here = Path(__file__).parent
    with opened(place, PLAN, overwrite=True):
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
        assert "another process is using this folder" in done.stderr
        assert (set_aside(place) / "old").exists()
        write(place, "runs/a/seed-1/run.json", "runs/a/seed-1/result.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_killed_within_its_first_file_it_starts_again(tmp_path: Path, mode: dict[str, bool]) -> None:
    write(tmp_path / "new", ".comparison.json.x1.tmp")
    with opened(tmp_path / "new", PLAN, **mode):
        write(tmp_path / "new", "runs/a/seed-1/run.json")
    assert (tmp_path / "new" / "comparison.json").is_file()


def test_killed_within_its_first_file_the_old_one_comes_back(place: Path) -> None:
    killed(place, ".comparison.json.x1.tmp")
    with pytest.raises(RunExistsError), opened(place, PLAN):
        pass
    assert (place / "old").exists()
    killed(place, ".git")
    with opened(place, PLAN):
        assert not (place / "old").exists()
    assert (place / ".git").exists()


def test_a_table_without_columns_is_refused_before_anything_changes(tmp_path: Path) -> None:
    class Empty(Plan):
        def columns(self) -> tuple[Column, ...]:
            return ()

    with pytest.raises(InputError, match="nothing would be measured"), opened(tmp_path / "new", Empty(PLAN.runs)):
        pass
    assert not (tmp_path / "new").exists()


def test_what_counts_as_begun(tmp_path: Path) -> None:
    write(tmp_path, "comparison.json", "recipe.yaml")
    assert not begun(tmp_path)
    for name in ("teacher/run.json", "answers/part-000000.json", "runs/a/seed-1/run.json"):
        write(tmp_path / name.partition("/")[0], name)
        assert begun(tmp_path / name.partition("/")[0])


def stopped(folder: Path, error: BaseException, *names: str) -> None:
    """A study that stops after writing these files."""
    with opened(folder, PLAN):
        write(folder, *names)
        raise error


def test_a_start_that_fails_before_any_run_is_no_obstacle(tmp_path: Path) -> None:
    folder, fault = tmp_path / "new", InputError("no such columns")
    for _ in range(2):
        with pytest.raises(InputError, match="columns"):
            stopped(folder, fault, "recipe.yaml", "environment.json")
        assert not folder.exists()
    write(folder, "comparison.json", "recipe.yaml")  # of one that was killed
    with pytest.raises(InputError, match="columns"):
        stopped(folder, fault, "environment.json")
    assert sorted(entry.name for entry in folder.iterdir()) == ["comparison.json", "recipe.yaml"]
    with pytest.raises(KeyboardInterrupt):
        stopped(folder, KeyboardInterrupt(), "runs/a/seed-1/run.json")
    with pytest.raises(RunExistsError), opened(folder, PLAN):
        pass
