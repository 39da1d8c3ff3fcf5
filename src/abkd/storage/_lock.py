"""One process at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from abkd.errors import InputError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

_TRIES = 100
_held: set[Path] = set()


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Generator[None]:
    """Keep other processes that ask for it out of `folder`, for the length of the block.

    The lock is on a hidden file `.NAME.lock` beside the folder, which need not exist. It goes with the process that
    holds it, however that ends, and covers what lies in the folder: locking that again in the block does nothing. Where
    a file cannot be locked (Windows, some network file systems, a parent that may not be written) there is no lock.

    Raises:
        InputError: another process is using the folder, or its parent cannot be made.
    """
    root = Path(folder).resolve()
    if fcntl is None or any(place in _held for place in (root, *root.parents)):
        yield
        return
    made = [place for place in root.parents if not place.exists()]
    file = root.parent / f".{root.name}.lock"
    try:
        handle = _taken(file)
        if handle is None:
            raise InputError(
                f"{folder}: another process is using this folder (it holds {file}): wait until it has ended, or name "
                "another folder"
            )
        _held.add(root)
        try:
            yield
        finally:
            _held.discard(root)
            if handle >= 0:
                file.unlink(missing_ok=True)
                fcntl.flock(handle, fcntl.LOCK_UN)  # at once, whatever processes were forked meanwhile
                os.close(handle)
    finally:
        with suppress(OSError):  # the first that is not empty
            for place in made:
                place.rmdir()


def _taken(file: Path) -> int | None:
    """The open file, locked; None where another process has locked it, and -1 where files cannot be locked here.

    Raises:
        InputError: its folder does not last.
    """
    if fcntl is None:
        return -1
    for _ in range(_TRIES):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # another process has just removed the parent that it had made
        except OSError:
            return -1
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        except FileNotFoundError:
            pass  # the one who held it has removed it: make another
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            os.close(handle)
            return -1
        os.close(handle)
    raise InputError(f"{file.parent}: this folder cannot be made, or vanishes at once; name another folder")
