"""The folder of a study: what must hold before anything in it changes, and what --overwrite gives back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from abkd.errors import InputError
from abkd.study._compare import STARTED, open_folder
from abkd.study._records import Planned

TEACHER = "teacher"


class Plan(Protocol):
    """What `ImagePlan` and `LmPlan` share; a run has `to_dict()`."""

    @property
    def methods(self) -> list[str]:
        """The methods, in the order of the table."""
        ...

    @property
    def seeds(self) -> list[int]:
        """The seeds, the same for every method."""
        ...

    @property
    def runs(self) -> Mapping[str, Mapping[int, Any]]:
        """The settings of every run, by method and then by seed."""
        ...

    @property
    def teacher(self) -> Any:
        """The run that trains the teacher first, or None."""
        ...

    def settled(self, place: Path) -> Mapping[str, Mapping[int, Any]]:
        """The runs of a study in `place`, with the teacher that the study itself trains."""
        ...


@contextmanager
def opened(
    folder: str | os.PathLike[str],
    plan: Plan,
    *,
    resume: bool = False,
    overwrite: bool = False,
    inputs: Iterable[str] = (),
) -> Generator[Path]:
    """`open_folder` for the length of a study, which changes nothing before the plan is known to fit.

    What `overwrite` replaces is set aside. It goes when the block ends, or comes back if no run had begun by then
    (data or teacher could not be loaded, say).

    Args:
        folder: Where to.
        plan: What to run.
        resume: Keep what is finished.
        overwrite: Replace what the folder holds.
        inputs: Paths that the study reads, besides those in the settings of its runs.

    Raises:
        InputError: To resume, a run there has other settings, or a finished one is not in the plan; to
            overwrite, something that the study reads lies in the folder.
        RunExistsError: The folder holds a comparison, and neither `resume` nor `overwrite` was given.
    """
    path = Path(folder)
    aside = None
    if (path / STARTED).is_file() and resume != overwrite:
        if resume:
            _check_resumable(path, plan)
        else:
            _check_outside(path, plan, inputs)
            aside = _set_aside(path)
    try:
        yield open_folder(path, plan.methods, plan.seeds, resume=resume, overwrite=overwrite)
    finally:
        if aside is not None:
            _settle(path, aside)


def begun(folder: Path) -> bool:
    """Whether a run, or the teacher's training, was started in a study's folder."""
    return (folder / TEACHER / "run.json").is_file() or any(folder.glob("runs/*/*/run.json"))


def _check_resumable(path: Path, plan: Plan) -> None:
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


def _check_outside(path: Path, plan: Plan, inputs: Iterable[str]) -> None:
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


def _set_aside(path: Path) -> Path:
    """Rename the folder, and leave an empty one in its place."""
    root = path.resolve()
    aside = root.parent / f".{root.name}.replaced"
    if aside.exists() and not begun(root):
        shutil.rmtree(root)  # a study that was killed before it began; the folder that it was to replace is aside
    elif aside.exists():
        shutil.rmtree(aside)
    if root.exists():
        root.rename(aside)
    root.mkdir()
    return aside


def _settle(path: Path, aside: Path) -> None:
    """Remove what was set aside, or bring it back if the new study has not begun."""
    root = path.resolve()
    if begun(root):
        shutil.rmtree(aside, ignore_errors=True)
    else:
        shutil.rmtree(root)
        aside.rename(root)
