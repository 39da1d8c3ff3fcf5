"""A full disk is said in words; anything else stays what it was."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from abkd.errors import AbkdError, InputError
from abkd.storage import NoRoomError, room_in, staged_folder


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=str,
)
def test_a_full_disk(tmp_path: Path, error: Exception) -> None:
    said = r"best: could not be written.*no room left on this disk"
    with pytest.raises(NoRoomError, match=said), staged_folder(tmp_path / "best"):
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), RuntimeError("out of memory"), InputError("y")], ids=str)
def test_other_errors_stay(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, room_in("f"):
        raise error
    assert caught.value is error


def test_a_full_disk_said_once_is_not_said_twice() -> None:
    with pytest.raises(NoRoomError, match=r"^inner: could"), room_in("outer"), room_in("inner"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert issubclass(NoRoomError, AbkdError)
