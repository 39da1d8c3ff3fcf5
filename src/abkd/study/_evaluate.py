"""Measuring saved students again, on the test split of the data that their run names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abkd.errors import InputError, nearest
from abkd.study._bar import PlanBar
from abkd.study._evaluate_lm import check_data, evaluate_lm_run
from abkd.study._plan import Newest

if TYPE_CHECKING:
    from abkd.image.data import ImageData
    from abkd.lm import LmParts

_WHICH = ("best", "last")


def evaluate_folder(
    folder: str | os.PathLike[str], *, which: str = "best", progress: bool = False
) -> dict[str, dict[str, float]]:
    """The test metrics of every finished run in a folder, from its saved weights.

    Of a language run, KL and NLL on its held-out rows.

    Args:
        folder: A run folder, or one that holds run folders at any depth.
        which: `best`, the epoch that was chosen on the validation split, or `last`.
        progress: Show one progress bar for all runs.

    Returns:
        Metrics by run, named by its path below `folder` (or by the folder's name if it is the run itself).

    Raises:
        InputError: No finished run, another `which`, or data or a teacher that have changed since.
        CorruptFileError: Weights that do not match their checksum.
    """
    from abkd.engine import RunFolder

    if which not in _WHICH:
        raise InputError(f"which: got {which!r}; {nearest(which, _WHICH)}")
    root = Path(folder)
    files = [file for file in root.rglob("result.json") if not _is_hidden(file.relative_to(root))]
    found = sorted(file.parent for file in files)
    if not found:
        raise InputError(f"{root}: no finished run in this folder; `abkd train` makes one")
    results: dict[str, dict[str, float]] = {}
    data: Newest[ImageData] = Newest()
    parts: Newest[LmParts] = Newest()
    with PlanBar(root.resolve().name, len(found)) if progress else nullcontext() as bar:
        for run in found:
            name = root.resolve().name if run == root else run.relative_to(root).as_posix()
            told = bar.next(name) if bar else None
            settings = RunFolder(run).settings()
            if settings.get("task") == "lm":
                results[name] = evaluate_lm_run(settings, run, which, parts)
            else:
                results[name] = _evaluate(settings, run, which, data)
            if told is not None:
                told(1.0, "")
    return results


def _evaluate(plain: Mapping[str, Any], run: Path, which: str, data: Newest[ImageData]) -> dict[str, float]:
    from abkd.engine import place_of
    from abkd.image import ImageRun, evaluate_models
    from abkd.image._load import load_images
    from abkd.image._run import fingerprints_of
    from abkd.image.models import load_model

    settings = ImageRun.from_dict(plain)
    loaded = data.of(settings.data, lambda: load_images(settings.data))
    found = fingerprints_of(loaded, None)
    check_data(run, {name: value for name, value in found.items() if name == "test"})
    student = {"student": load_model(run / which)}
    return evaluate_models(student, loaded.test, device=place_of(settings.training))["student"]


def _is_hidden(place: Path) -> bool:
    """Set aside by a study that replaces it, say."""
    return any(part.startswith(".") for part in place.parts)
