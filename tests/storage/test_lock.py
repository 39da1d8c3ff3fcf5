"""One process at a time in a folder, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from abkd.errors import InputError
from abkd.storage import _lock as home
from abkd.storage import locked

pytestmark = pytest.mark.skipif(home.fcntl is None, reason="needs fcntl")

HOLDS = """
import sys
from abkd.storage import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process, once it holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "mkdir", none)
    with pytest.raises(InputError, match="runs: this folder cannot be made"), locked(tmp_path / "runs" / "new"):
        pass


def test_another_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    with holder(folder) as process:
        said = r"runs/new: another process is using this folder.*\.new\.lock"
        with pytest.raises(InputError, match=said), locked(folder):
            pass
        with locked(tmp_path / "runs" / "other"):
            pass
        assert not folder.exists()
        process.communicate("")
    assert not list(tmp_path.iterdir())
    with locked(folder):
        assert (tmp_path / "runs" / ".new.lock").is_file()
        folder.mkdir()
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["new"]


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path / "new") as process:
        os.kill(process.pid, signal.SIGKILL)
    assert (tmp_path / ".new.lock").is_file()
    with locked(tmp_path / "new"):
        pass
    assert not list(tmp_path.iterdir())


def test_what_lies_in_a_locked_folder_is_locked_with_it(tmp_path: Path) -> None:
    with locked(tmp_path / "study"):
        with locked(tmp_path / "study" / "runs" / "a"), locked(tmp_path / "study"):
            assert not (tmp_path / "study").exists()
        assert [entry.name for entry in tmp_path.iterdir()] == [".study.lock"]
    assert not list(tmp_path.iterdir())


def test_where_no_file_can_be_locked_there_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with locked(tmp_path / "file" / "inner"):
        pass
    monkeypatch.setattr(home, "fcntl", None)
    with locked(tmp_path / "new"):
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_only_one_of_many_holds_it_at_a_time(tmp_path: Path) -> None:
    """Files are taken, removed and made anew by processes that race; no two ever hold one."""
    race = f"""
import os
from pathlib import Path
from abkd.errors import InputError
from abkd.storage import locked
mark, done = Path({str(tmp_path / "mark")!r}), 0
while done < 50:
    try:
        with locked({str(tmp_path / "a" / "b")!r}):
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            mark.unlink()
            done += 1
    except InputError:
        pass
"""
    racers = [subprocess.Popen([sys.executable, "-c", race], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for racer in racers:
        _, err = racer.communicate(timeout=120)
        assert racer.returncode == 0, err
    assert not any(entry.is_file() for entry in tmp_path.rglob("*"))  # an empty parent may stay, of the first's making
