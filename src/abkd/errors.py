"""The errors that abkd raises on purpose, and the exit code that the command line gives each.

Every message says what was expected, what came, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any


class AbkdError(Exception):
    """Root of every error that abkd raises on purpose; the command line exits with `exit_code`."""

    exit_code = 1


class InputError(AbkdError, ValueError):
    """An argument or a tensor that cannot be used as given."""

    exit_code = 2


class ElsewhereError(AbkdError):
    """The first process of a run has failed and says why; the others stop with this."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class InfiniteDivergenceError(InputError):
    """The divergence of these two distributions is infinite: one rules out what the other allows."""

    exit_code = 1


class RecipeError(InputError):
    """A recipe that cannot be run. `problems` holds one line a fault, each opening with the field's path."""

    def __init__(self, problems: Sequence[str], source: str = "recipe") -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{source}: {problem}" for problem in self.problems))
        self.source = source

    def __reduce__(self) -> tuple[type[RecipeError], tuple[tuple[str, ...], str]]:
        return type(self), (self.problems, self.source)


class RunExistsError(InputError):
    """A run folder that already holds a run, met without being told to resume or to overwrite it."""


class MissingPackageError(AbkdError, ImportError):
    """An optional package is needed; the message names the command that installs it."""

    exit_code = 2


class CorruptFileError(AbkdError):
    """A file that does not match its checksum, is not whole, or is not of its format."""

    exit_code = 2


def nearest(word: str, known: Iterable[str]) -> str:
    """A tail for an error message: ", did you mean 'x'?" and what is known, for a name that is not."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}Known: {', '.join(names)}"


def check_keys(given: Iterable[Any], known: Iterable[str], where: str) -> None:
    """Every key is known.

    Args:
        given: keys as a user wrote them.
        known: those that there are.
        where: the path of the settings, for the message.

    Raises:
        InputError: one is not; the message names the nearest.
    """
    names = list(known)
    for key in given:
        if key not in names:
            raise InputError(f"{where}.{key}: unknown key; {nearest(str(key), names)}")


@contextmanager
def needed(package: str, extra: str) -> Generator[None]:
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
