"""The folder of a study: what must hold before anything in it changes, and what --overwrite gives back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from abkd.errors import InputError
from abkd.storage import visible
from abkd.study._compare import STARTED, open_folder
from abkd.study._plan import TEACHER, StudyPlan
from abkd.study._records import Planned

_BEFORE_ANY_RUN = (STARTED, "recipe.yaml", "environment.json")


@contextmanager
def opened(
    folder: str | os.PathLike[str],
    plan: StudyPlan[Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    inputs: Iterable[str] = (),
) -> Generator[Path]:
    """`open_folder` for the length of a study, which changes nothing before the plan is known to fit.

    Of several processes the first one alone changes the folder, and the others wait for it.
    What `overwrite` replaces is set aside, as `.NAME.replaced` beside the folder. Where the block ends, or after a
    kill where the next one starts, it goes if the new study has a finished run, and comes back if nothing had begun
    (data or teacher could not be loaded, say); in between it stays aside until one of the two holds.
    A study that ends before anything has begun leaves no files, and what a killed one left is no obstacle.

    Args:
        folder: Where to.
        plan: What to run.
        resume: Keep what is finished.
        overwrite: Replace what the folder holds.
        inputs: Paths that the study reads, besides those in the settings of its runs.

    Raises:
        InputError: The plan's table would be empty; another process is using the folder; to resume, a run there has
            other settings, or a finished one is not in the plan; to overwrite, something that the study reads lies in
            the folder.
        RunExistsError: The folder holds a comparison, and neither `resume` nor `overwrite` was given.
    """
    from abkd.engine import is_main, join, on_main, only_here

    if not plan.columns():
        raise InputError("nothing would be measured: give data.validation, data.test or evaluation.sets")
    path = Path(folder)
    join(plan.example.training)
    with only_here(path):
        kept = on_main(lambda: _open(path, plan, resume, overwrite, inputs))
        try:
            yield path
        finally:
            if is_main():
                _remove_unbegun(path, kept)
                _settle(path)


def _open(path: Path, plan: StudyPlan[Any], resume: bool, overwrite: bool, inputs: Iterable[str]) -> list[str] | None:
    """The names that the folder held when it was opened; None if there was no folder."""
    _settle(path)
    if not resume and not overwrite and _only_unbegun(path):
        resume = True  # killed before any run: there is nothing to keep or to lose
    if (path / STARTED).is_file() and resume != overwrite:
        if resume:
            _check_resumable(path, plan)
        else:
            _check_outside(path, plan, inputs)
            _replace(path)
    kept = [entry.name for entry in path.iterdir()] if path.is_dir() else None
    try:
        open_folder(path, plan.methods, plan.seeds, resume=resume, overwrite=overwrite)
    except BaseException:
        _settle(path)
        raise
    return kept


def _only_unbegun(path: Path) -> bool:
    """Whether a folder holds what a study writes before its first run, and nothing else but hidden files."""
    names = {entry.name for entry in visible(path)}
    return STARTED in names and names <= {*_BEFORE_ANY_RUN}


def _remove_unbegun(path: Path, kept: Sequence[str] | None) -> None:
    """Remove what a study wrote before its first run, if none has begun; not what was there before."""
    if begun(path) or not path.is_dir():
        return
    for name in _BEFORE_ANY_RUN:
        if name not in (kept or ()):
            (path / name).unlink(missing_ok=True)
    for place in (path / "runs", path / TEACHER):
        if place.is_dir() and not any(entry.is_file() for entry in place.rglob("*")):
            shutil.rmtree(place)  # empty folders of a trainer that was refused
    if kept is None and not any(path.iterdir()):
        path.rmdir()


def begun(folder: Path) -> bool:
    """Whether a run, the teacher's training, or its answers were started in a study's folder."""
    started = ("teacher/run.json", "answers/part-*", "teacher_text/*/part-*", "runs/*/*/run.json")
    return any(any(folder.glob(pattern)) for pattern in started)


def set_aside(folder: Path) -> Path:
    """Where what `overwrite` replaces lies until a run of the new study is finished."""
    root = folder.resolve()
    return root.parent / f".{root.name}.replaced"


def _check_resumable(path: Path, plan: StudyPlan[Any]) -> None:
    from abkd.engine import RunFolder

    if plan.teacher is not None:
        RunFolder.check(path / TEACHER, plan.teacher.to_dict(), resume=True)
    planned: set[Path] = set()
    for method, seeds in plan.settled(path).items():
        for seed, run in seeds.items():
            place = path / Planned(method, seed).folder
            RunFolder.check(place, run.to_dict(), resume=True)
            planned.add(place)
    lost = sorted(file.parent for file in path.glob("runs/*/seed-*/result.json") if file.parent not in planned)
    if lost:
        methods = list(dict.fromkeys([*plan.methods, *(place.parent.name for place in lost)]))
        seeds = list(dict.fromkeys([*map(str, plan.seeds), *(place.name.removeprefix("seed-") for place in lost)]))
        raise InputError(
            f"{path}: holds finished runs that this plan leaves out ({_some(lost)}), and the table would lose "
            f"them: compare with --methods {','.join(methods)} --seeds {','.join(seeds)}, or choose another "
            "folder with --output"
        )


def _some(runs: Sequence[Path]) -> str:
    named = [f"{run.parent.name}, seed {run.name.removeprefix('seed-')}" for run in runs[:3]]
    return "; ".join(named) + (f"; and {len(runs) - 3} more" if len(runs) > 3 else "")


def _check_outside(path: Path, plan: StudyPlan[Any], inputs: Iterable[str]) -> None:
    root = path.resolve()
    if root in (here := Path.cwd().resolve(), *here.parents):
        raise InputError(f"{path}: the current folder lies in it and cannot be replaced; run from outside it")
    runs = [run for seeds in plan.runs.values() for run in seeds.values()]
    read = [*inputs, *(text for run in (plan.teacher, *runs) if run is not None for text in _texts(run.to_dict()))]
    for text in dict.fromkeys(read):
        if _exists(text) and root in (place := Path(text).resolve(), *place.parents):
            raise InputError(
                f"{path}: --overwrite would remove {text}, which this study reads; "
                "choose another folder with --output, or move that out of it"
            )


def _texts(value: Any) -> Iterator[str]:
    """Every text in nested plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in cast("Mapping[Any, Any]", value).values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in cast("Sequence[Any]", value):
            yield from _texts(inner)


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long for a path, or with a NUL
        return False


def _replace(path: Path) -> None:
    """Rename the folder, and leave an empty one in its place.

    If one is aside already, a study that replaces it was stopped before any of its runs was finished: that goes.
    """
    root, aside = path.resolve(), set_aside(path)
    if aside.exists():
        shutil.rmtree(root)
    else:
        root.rename(aside)
    root.mkdir()


def _settle(path: Path) -> None:
    """Remove what is aside once the study that replaces it has a finished run; bring it back if none has begun.

    In between, and beside a folder that is no study, it stays.
    """
    root, aside = path.resolve(), set_aside(path)
    if not aside.is_dir():
        return
    if any(root.glob("runs/*/*/result.json")):
        shutil.rmtree(aside)
    elif not begun(root) and ((root / STARTED).is_file() or all(_half_written(entry) for entry in _within(root))):
        shutil.rmtree(root, ignore_errors=True)
        aside.rename(root)


def _within(path: Path) -> list[Path]:
    return [*path.iterdir()] if path.is_dir() else []


def _half_written(entry: Path) -> bool:
    """Left by a study that was killed while it wrote its first file."""
    return entry.name.startswith(f".{STARTED}.") and entry.suffix == ".tmp"
