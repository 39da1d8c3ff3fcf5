"""Naming the command that installs an optional package, where one is missing."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from abkd.errors import MissingPackageError


@contextmanager
def needed(package: str, extra: str = "image") -> Generator[None]:
    """Around an import: if `package` is not installed, say which command installs it.

    Args:
        package: the name that is imported.
        extra: the extra of abkd that brings it.

    Raises:
        MissingPackageError: the package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != package:
            raise
        raise MissingPackageError(
            f'the package {package!r} is needed here and is not installed: pip install "abkd[{extra}]"'
        ) from error
