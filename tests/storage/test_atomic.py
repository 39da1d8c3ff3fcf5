"""Files are whole or as they were."""

import json
import os

import pytest

from abkd.errors import CorruptFileError, InputError
from abkd.storage import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    read_json,
    staged_folder,
    verify_manifest,
)


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "deep" / "a.bin"
    atomic_write_bytes(path, b"one")
    assert atomic_write_bytes(path, b"two") == path
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]
    atomic_write_text(tmp_path / "t", "\u03b1\u03b2")
    assert (tmp_path / "t").read_bytes() == b"\xce\xb1\xce\xb2"


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a"
    atomic_write_bytes(path, b"old")

    def fail(handle):
        raise OSError("disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_the_mode_of_a_file_is_kept(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"")
    path.chmod(0o600)
    atomic_write_bytes(path, b"x")
    assert path.stat().st_mode & 0o777 == 0o600
    assert atomic_write_bytes(tmp_path / "b", b"").stat().st_mode & 0o777 == 0o644


def test_json_round_trip_and_refusals(tmp_path):
    value = {"a": [1, 2.5, None, "x"], "b": {"c": True}}
    path = atomic_write_json(tmp_path / "v.json", value)
    assert read_json(path) == value == json.loads(path.read_text())
    for bad in (float("nan"), {"a": object()}):
        with pytest.raises(InputError, match="cannot be written as JSON"):
            atomic_write_json(path, bad)
    assert read_json(path) == value
    path.write_text("{")
    with pytest.raises(CorruptFileError, match=r"v\.json"):
        read_json(path)


def test_a_staged_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with staged_folder(target) as folder:
        (folder / "w").write_bytes(b"1")
        assert not target.exists()
    verify_manifest(target)
    with pytest.raises(IsADirectoryError), staged_folder(target) as folder:
        folder.write_bytes(b"2")
    assert (target / "w").read_bytes() == b"1"
    with staged_folder(target) as folder:
        (folder / "v").write_bytes(b"3")
    assert sorted(entry.name for entry in target.iterdir()) == ["manifest.json", "v"]
    assert list(tmp_path.iterdir()) == [target]
