"""Writing so that a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from abkd.errors import CorruptFileError, InputError
from abkd.storage._manifest import write_manifest
from abkd.storage._room import room_in

STAGED_PREFIX = ".staged-"
_DEFAULT_MODE = 0o644


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path` in one step and return the path.

    The bytes go to a temporary file in the same folder, which is flushed to the disk and renamed. Killed at
    any moment, this leaves the old content or the new. Missing parent folders are made.

    Args:
        path: the file to make or replace.
        data: its whole content.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(target.stat().st_mode & 0o777 if target.exists() else _DEFAULT_MODE)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)
    return target


def atomic_write_text(path: str | os.PathLike[str], text: str) -> Path:
    """`atomic_write_bytes` for text, as UTF-8."""
    return atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """`atomic_write_bytes` for a value made of dicts, lists, strings, numbers and None; NaN is refused.

    Raises:
        InputError: the value cannot be written as standard JSON.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: this value cannot be written as JSON ({error})") from error
    return atomic_write_text(path, text + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value in a JSON file.

    Raises:
        CorruptFileError: the file is not JSON.
        FileNotFoundError: there is no such file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path}: expected JSON, but it cannot be read as such ({error})") from error


def visible(folder: str | os.PathLike[str]) -> list[Path]:
    """What is in a folder but hidden files, which a process that was killed may leave; nothing without a folder."""
    path = Path(folder)
    return [entry for entry in path.iterdir() if not entry.name.startswith(".")] if path.is_dir() else []


@contextmanager
def writable(folder: str | os.PathLike[str]) -> Generator[None]:
    """Around the first writing into a folder of someone's choice.

    Raises:
        InputError: the folder cannot be made or may not be written to; a full disk stays an OSError.
    """
    try:
        yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{folder}: this folder cannot be made or written to ({error.strerror}); choose another with --output"
        ) from error
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.ENAMETOOLONG, errno.EINVAL):
            raise
        raise InputError(
            f"{folder}: this folder cannot be made ({error.strerror}); choose another with --output"
        ) from error


@contextmanager
def staged_folder(path: str | os.PathLike[str]) -> Generator[Path]:
    """A temporary folder to fill, which becomes `path` (with a manifest) when the block ends well.

    If the block raises, the temporary folder is removed and `path` is left as it was. A process killed inside
    the block leaves only a folder whose name starts with `.staged-`. An existing `path` is replaced.

    Raises:
        NoRoomError: the disk is full.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{STAGED_PREFIX}{target.name}-"))
    try:
        with room_in(target):
            yield temporary
            write_manifest(temporary)
        temporary.chmod(0o755)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    replace_folder(temporary, target)


def replace_folder(source: Path, target: Path) -> None:
    """Rename `source` to `target`; an existing target is moved aside first and then removed."""
    if target.exists():
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{STAGED_PREFIX}old-"))
        target.rename(aside / target.name)
        source.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        source.rename(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, on systems that can flush a folder."""
    if os.name != "posix":
        return
    with suppress(OSError):  # some network file systems refuse to flush a folder; the rename itself stands
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
