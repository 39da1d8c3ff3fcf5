"""Running a plan of methods and seeds, one run after the other, each kept as soon as it is finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from abkd.errors import AbkdError, CorruptFileError, InputError, RunExistsError
from abkd.storage import NoRoomError, atomic_write_json, read_json, visible, writable
from abkd.study._records import Column, Comparison, Failure, Planned, Record
from abkd.study._table import RESULTS, write_reports

STARTED = "comparison.json"


def plan(methods: Iterable[str], seeds: Iterable[int]) -> list[Planned]:
    """Every method with every seed; seed by seed, so that a stopped comparison has seen all methods."""
    names = list(methods)
    return [Planned(method, seed) for seed in seeds for method in names]


def open_folder(
    folder: str | os.PathLike[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """The comparison's folder, made if need be, with the plan in comparison.json.

    Raises:
        RunExistsError: It holds a comparison, and neither `resume` nor `overwrite` was given.
        InputError: Both were given, or the path is a file or cannot be made, or it holds files that are not a
            comparison.
    """
    path = Path(folder)
    if resume and overwrite:
        raise InputError("--resume keeps what is finished and --overwrite removes it: give one of the two")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: expected a folder, found a file; choose another with --output")
    if visible(path):
        if not (path / STARTED).is_file():
            raise InputError(f"{path}: holds files that are no comparison; choose another folder with --output")
        if not resume and not overwrite:
            raise RunExistsError(
                f"{path}: holds a comparison already; go on with --resume, start anew with --overwrite, "
                "or choose another folder with --output"
            )
        if overwrite:
            shutil.rmtree(path)
    with writable(path):
        path.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path / STARTED, {"methods": list(methods), "seeds": list(seeds)})
    return path


def compare(
    methods: Sequence[str],
    seeds: Sequence[int],
    run: Callable[[Planned, Path], Record],
    folder: str | os.PathLike[str],
    *,
    columns: Sequence[Column],
    note: str = "",
    report: Callable[[Planned, Record | Failure], None] | None = None,
) -> Comparison:
    """Run every method with every seed and write the reports into `folder`.

    A run that ends in an AbkdError or in one of torch's errors (no memory left, say) is kept as a failure and the
    others go on; on a full disk they would fail as well, so that ends the comparison. Of several processes one alone
    may have failed, while the others wait for it: there the error is raised. An interruption (Ctrl-C) leaves finished
    runs where they are; calling `compare` again, with a `run` that returns what it finds finished, goes on.

    Args:
        methods: names, each once, in the order of the table.
        seeds: numbers, each once.
        run: makes one run in the folder given to it (`folder/runs/METHOD/seed-SEED`), or returns the
            finished one it finds there.
        folder: the comparison's folder, as opened by `open_folder`.
        columns: what the table shows; the first is what plots show.
        note: how to read the numbers, said under every table.
        report: is told each run's outcome, for progress.

    Raises:
        InputError: No method or no seed.
        NoRoomError: The disk is full.
    """
    from abkd.engine import is_main, on_main, ranks

    if not methods or not seeds:
        raise InputError("a comparison needs at least one method and one seed")
    place = Path(folder)
    records: list[Record] = []
    failures: list[Failure] = []
    for planned in plan(methods, seeds):
        try:
            outcome: Record | Failure = run(planned, place / planned.folder)
        except AbkdError as error:
            if error.exit_code != 1 or isinstance(error, NoRoomError) or ranks() > 1:
                raise  # the plan itself is wrong, or the disk full, and every other run would fail in the same way
            outcome = Failure(planned.method, planned.seed, str(error))
        except RuntimeError as error:  # torch's, out of memory among them: the next method may need less
            if ranks() > 1:
                raise
            outcome = Failure(planned.method, planned.seed, f"{type(error).__name__}: {error}")
        if isinstance(outcome, Record):
            records.append(outcome)
        else:
            failures.append(outcome)
        if report is not None and is_main():
            report(planned, outcome)
    shown = [column for column in columns if not column.optional or any(column.of(one) is not None for one in records)]
    result = Comparison(tuple(methods), tuple(records), tuple(shown), tuple(failures), note)
    on_main(lambda: write_reports(result, place))
    return result


def load_comparison(folder: str | os.PathLike[str]) -> Comparison:
    """The comparison whose results.json is in `folder`.

    Raises:
        InputError: There is none.
        CorruptFileError: The file is not what `compare` writes.
    """
    path = Path(folder) / RESULTS
    if not path.is_file():
        raise InputError(f"{path}: no such file; `abkd compare` writes it when a comparison is finished")
    try:
        return Comparison.from_dict(read_json(path))
    except (KeyError, TypeError) as error:
        raise CorruptFileError(f"{path}: not the results of a comparison ({error}); run it again") from error
