"""What the subcommands share: two consoles, and one place where errors become messages and exit codes."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Callable
from typing import ParamSpec

from rich.console import Console

from abkd.errors import AbkdError, ElsewhereError

Arguments = ParamSpec("Arguments")

INTERRUPTED = 130
NOTHING_BEGUN = "Nothing had begun."


def out() -> Console:
    """The console for results, on standard output; made when used, so that redirection is seen.

    Of the processes of a run the first one alone speaks.
    """
    return Console(highlight=False, emoji=False, quiet=_rank() > 0)


def err() -> Console:
    """The console for progress, on standard error; likewise of the first process."""
    return Console(stderr=True, highlight=False, emoji=False, quiet=_rank() > 0)


def plain(text: str) -> None:
    """Print to standard output without any markup or wrapping."""
    out().print(text, markup=False, soft_wrap=True)


def guarded(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """The command with AbkdError turned into its message and exit code, and Ctrl-C into advice and 130."""

    @functools.wraps(command)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ElsewhereError as error:  # the first process says what it was
            raise SystemExit(error.exit_code) from None
        except AbkdError as error:
            _complain(str(error))
            raise SystemExit(error.exit_code) from None
        except OSError as error:  # a full disk, a folder that may not be written: the machine's, not a bug
            _complain(f"{error}. {_advice(error)}")
            raise SystemExit(1) from None
        except KeyboardInterrupt as stop:
            err().print(f"\nStopped. {_advice(stop)}", markup=False, soft_wrap=True)
            raise SystemExit(INTERRUPTED) from None

    return run


def _complain(text: str) -> None:
    """An error, of whichever process."""
    number = _rank()
    console = Console(stderr=True, highlight=False, emoji=False)
    console.print(f"process {number}: {text}" if number else text, style="red", markup=False, soft_wrap=True)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _advice(error: BaseException) -> str:
    """How to go on after an interruption, from the words that started this process."""
    if NOTHING_BEGUN in vars(error):
        return NOTHING_BEGUN
    words = sys.argv[1:]
    if not words or words[0] not in {"train", "compare", "demo", "cache"}:
        return "Nothing was left half done."
    if words[0] == "cache":
        return f"What is done is kept; go on with: abkd {shlex.join(words)}"
    kept = [word for word in words if word not in {"--overwrite", "--resume"}]
    return f"Finished runs and checkpoints are kept; go on with: abkd {shlex.join([*kept, '--resume'])}"
