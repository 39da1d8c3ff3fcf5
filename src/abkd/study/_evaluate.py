"""Measuring saved students again, on the test split of the data that their run names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abkd.errors import InputError, nearest

_WHICH = ("best", "last")


def evaluate_folder(folder: str | os.PathLike[str], *, which: str = "best") -> dict[str, dict[str, float]]:
    """The test metrics of every finished run in a folder, from its saved weights.

    Of a language run, KL and NLL on its held-out rows.

    Args:
        folder: A run folder, or one that holds run folders at any depth.
        which: `best`, the epoch that was chosen on the validation split, or `last`.

    Returns:
        Metrics by run, named by its path below `folder` (or by the folder's name if it is the run itself).

    Raises:
        InputError: No finished run, or another `which`.
        CorruptFileError: Weights that do not match their checksum.
    """
    from abkd.engine import RunFolder

    if which not in _WHICH:
        raise InputError(f"which: got {which!r}; {nearest(which, _WHICH)}")
    root = Path(folder)
    found = sorted(path.parent for path in root.rglob("result.json")) if root.is_dir() else []
    if not found:
        raise InputError(f"{root}: no finished run in this folder; `abkd train` makes one")
    results: dict[str, dict[str, float]] = {}
    for run in found:
        name = run.name if run == root else run.relative_to(root).as_posix()
        settings = RunFolder(run).settings()
        if settings.get("task") == "lm":
            from abkd.study._evaluate_lm import evaluate_lm_run

            results[name] = evaluate_lm_run(settings, run, which)
        else:
            results[name] = _evaluate(settings, run / which)
    return results


def _evaluate(plain: Mapping[str, Any], weights: Path) -> dict[str, float]:
    from abkd.image import ImageRun, evaluate_models
    from abkd.image.data import load_data
    from abkd.image.models import load_model

    settings = ImageRun.from_dict(plain)
    data = load_data(settings.data.name, **settings.data.options)
    return evaluate_models({"student": load_model(weights)}, data.test)["student"]
