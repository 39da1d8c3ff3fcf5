"""Asking a recipe's teacher once for everything that its runs will train on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from abkd.errors import InputError
from abkd.study._lm import quiet_libraries

if TYPE_CHECKING:
    from abkd.lm import LmRun


def build_cache(settings: LmRun, folder: str | os.PathLike[str], **options: Any) -> Any:
    """An `abkd.teachers.LmCache` of a run's training rows, and of its validation rows if it has any.

    Args:
        settings: the run; its `teacher.cache` is not looked at.
        folder: new, or the beginning of the same cache, which is then finished.
        **options: of `LmCache.build` (`top_k`, `tail_mass`, `bits`, `batch_size`, ...).

    Raises:
        InputError: a teacher that is not named, rows that cannot be read, or a folder that holds something else.
        AbkdError: no room on the disk; what is done is kept.
    """
    import datasets

    from abkd.lm import lm_config, load_rows, load_teacher, load_tokenizer
    from abkd.lm.data import tokenise
    from abkd.teachers import LmCache

    quiet_libraries()
    if settings.teacher is None or settings.teacher.model is None:
        raise InputError("teacher.model: required, it is what the cache keeps the answers of")
    if settings.data.answers is not None:
        raise InputError("data.answers: a cache keeps what a teacher says of given text; train on a file instead")
    tokenizer = load_tokenizer(settings.student.model or settings.teacher.model)
    rows = load_rows(settings.data, tokenizer)
    length = lm_config(settings, "unused").max_length
    parts = [tokenise(rows[name], tokenizer, max_length=length) for name in ("train", "validation") if name in rows]
    kept = [part.select_columns(["input_ids", "labels"]) for part in parts]
    temperature = options.pop("temperature", None) or _temperature(settings)
    return LmCache.build(
        datasets.concatenate_datasets(kept),
        load_teacher(settings.teacher),
        tokenizer,
        folder,
        temperature=temperature,
        **options,
    )


def _temperature(settings: LmRun) -> float:
    from abkd.lm import lm_config

    found = lm_config(settings, "unused").objective().temperatures
    if len(found) > 1:
        raise InputError("loss.temperature: a schedule; a cache has one temperature")
    return next(iter(found))
