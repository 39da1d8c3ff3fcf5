"""A full disk, said in words, whichever library met it."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager

from abkd.errors import AbkdError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = (
    *(f"(os error {number})" for number in _FULL),  # safetensors
    "inline_container.cc",  # torch.save, which does not say why a write failed
    "PytorchStreamWriter",
)


class NoRoomError(AbkdError):
    """No room is left on a disk, so that nothing more can be kept there."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full: of the system, of safetensors, or of `torch.save`."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return isinstance(error, NoRoomError) or any(words in str(error) for words in _WORDS)


@contextmanager
def room_in(folder: str | os.PathLike[str]) -> Generator[None]:
    """Around writing into a folder.

    Raises:
        NoRoomError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, AbkdError) or not is_full(error):
            raise
        raise NoRoomError(
            f"{folder}: could not be written, as there is no room left on this disk ({error}). What was whole is kept: "
            "free some, and go on with --resume"
        ) from error
