"""The processes of one run: the first one alone touches files and speaks, and the others wait for it."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch

from abkd.errors import ElsewhereError, InputError
from abkd.storage import locked

WAITED = 86_400
"""Seconds that processes wait for each other: a day, since the first one may write and measure texts for hours."""

Value = TypeVar("Value")


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the first process of a run, or the only one."""
    return rank() == 0


def say(text: str) -> None:
    """One line to the user, on standard error, from the first process."""
    if is_main():
        print(f"abkd: {text}", file=sys.stderr, flush=True)


def join(training: Mapping[str, Any]) -> None:
    """Let the processes find each other before the trainer does; nothing where they have, or where there is one.

    Args:
        training: of a run: `use_cpu`, `ddp_backend` and `ddp_timeout` are looked at.
    """
    if ranks() == 1 or torch.distributed.is_initialized():
        return
    from accelerate import PartialState

    patience = timedelta(seconds=training.get("ddp_timeout") or WAITED)
    PartialState(cpu=bool(training.get("use_cpu")), backend=training.get("ddp_backend"), timeout=patience)


def leave() -> None:
    """Take leave of the other processes, at the end of a program that holds no trainer any more.

    Gloo's threads let go of the tensors of their last work when they come to it. Where the interpreter ends before,
    the process aborts ("terminate called without an active exception", pytorch issue 190489). They end with their
    group, and the group with the last of what holds it.
    """
    if ranks() > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()


def alone(what: str) -> None:
    """Refuse several processes for what one does.

    Raises:
        InputError: there are several.
    """
    if ranks() > 1:
        raise InputError(f"{what} is made for one process, and {ranks()} were launched: start it without a launcher")


def wait() -> None:
    """Return when all processes have come here."""
    if ranks() > 1:
        torch.distributed.barrier()


def on_main(work: Callable[[], Value]) -> Value:
    """What `work` gives in the first process, in all of them, which all have to come here.

    Raises:
        ElsewhereError: in the others, where it raised something in the first.
    """
    if ranks() == 1:
        return work()
    found: list[Any] = [None, None]
    if is_main():
        try:
            found[0] = work()
        except Exception as error:
            torch.distributed.broadcast_object_list([None, (str(error), getattr(error, "exit_code", 1))])
            raise
    torch.distributed.broadcast_object_list(found)
    if found[1] is not None:
        raise ElsewhereError(*found[1])
    return found[0]


@contextmanager
def only_here(folder: str | os.PathLike[str]) -> Generator[None]:
    """Keep other programs that write there from a folder, for the length of the block; see `abkd.storage.locked`.

    Raises:
        InputError: another program is using it.
    """
    with ExitStack() as held:
        on_main(lambda: held.enter_context(locked(folder)))
        yield
