"""Asking a recipe's teacher once for everything that its runs will train on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abkd.errors import InputError
from abkd.study._lm import quiet_libraries

if TYPE_CHECKING:
    from abkd.lm import LmRun
    from abkd.lm._objective import ScheduledObjective
    from abkd.lm.evaluation import CacheLoss
    from abkd.teachers import LmCache


def build_cache(settings: LmRun, folder: str | os.PathLike[str], **options: Any) -> LmCache:
    """An `abkd.teachers.LmCache` of a run's training rows, and of its validation rows if it has any.

    With `data.answers` the teacher first writes all responses, into the folder `FOLDER-answers`.

    Args:
        settings: the run; its `teacher.cache` is not looked at.
        folder: new, or the beginning of the same cache, which is then finished.
        **options: of `LmCache.build` (`top_k`, `tail_mass`, `bits`, `batch_size`, ...). `temperature` is the loss's,
            and `power` its alpha + beta where that is above 1, unless given.

    Raises:
        InputError: a teacher that is not named, or of another vocabulary, rows that cannot be read, or a folder that
            holds something else.
        NoRoomError: no room on the disk; what is done is kept.
    """
    return measured_cache(settings, folder, measured=0, **options)[0]


def measured_cache(
    settings: LmRun, folder: str | os.PathLike[str], *, measured: int = 16, **options: Any
) -> tuple[LmCache, CacheLoss | None]:
    """`build_cache`, and what the cache loses against the live teacher for the run's student as it starts.

    Args:
        settings: the run.
        folder: as for `build_cache`.
        measured: so many rows are compared; 0 compares none.
        **options: as for `build_cache`.

    Returns:
        The cache, and the comparison: None for methods without a divergence, and where it cannot be made, which is
        said (logits that are more than head times hidden states, or a divergence that the cache does not serve).

    Raises:
        InputError, NoRoomError: as `build_cache`.
    """
    import datasets

    from abkd.engine import place_of
    from abkd.lm import answered, lm_config, load_rows, load_teacher, load_tokenizer, shared_vocabulary
    from abkd.lm._parts import answers_beside, tokenizer_of_teacher
    from abkd.lm.data import tokenise
    from abkd.teachers import LmCache

    quiet_libraries()
    if settings.teacher is None or settings.teacher.model is None:
        raise InputError("teacher.model: required, it is what the cache keeps the answers of")
    tokenizer = load_tokenizer(settings.student.model or settings.teacher.model)
    rows = load_rows(settings.data, tokenizer)
    config = lm_config(settings, "unused")
    temperature = options.pop("temperature", None) or _temperature(config.objective())
    power = options.pop("power", None) or _power(config.objective())
    teacher = load_teacher(settings.teacher).to(place_of(settings.training))
    if (theirs := tokenizer_of_teacher(settings)) is not None:
        classes = int(teacher.get_output_embeddings().weight.shape[0])
        shared_vocabulary(tokenizer, theirs, classes, classes)
    if settings.data.answers is not None:
        shown = options.get("progress", True)
        rows = answered(rows, settings, teacher, tokenizer, answers_beside(Path(folder)), progress=shown)
    reading: dict[str, Any] = {"max_length": config.max_length, "prompts": config.completion_only_loss is False}
    parts = [tokenise(rows[name], tokenizer, **reading) for name in ("train", "validation") if name in rows]
    kept = datasets.concatenate_datasets([part.select_columns(["input_ids", "labels"]) for part in parts])
    cache = LmCache.build(kept, teacher, tokenizer, folder, temperature=temperature, power=power, **options)
    some = kept.select(range(min(measured, len(kept))))
    return cache, _lost(settings, cache, teacher, tokenizer, some) if measured else None


def _lost(settings: LmRun, cache: LmCache, teacher: Any, tokenizer: Any, rows: Any) -> CacheLoss | None:
    from abkd.engine import say
    from abkd.lm import LmParts, lm_config, origin_of
    from abkd.lm.evaluation import cache_loss

    divergence = lm_config(settings, "unused").objective().at(0.0).divergence
    if divergence is None:
        return None
    parts = LmParts(tokenizer, rows, origin=origin_of(settings, teacher))
    student = parts.student(settings).to(teacher.device)
    try:
        return cache_loss(cache, student, teacher, rows, divergence)
    except InputError as error:
        say(f"what the cache loses beside the teacher was not measured: {error}")
        return None


def _power(objective: ScheduledObjective) -> float | None:
    """The sum of alpha and beta, where it is above 1 and a cache without it would be refused."""
    from abkd.losses._sparse import degree

    divergence = objective.at(0.0).divergence
    found = None if divergence is None else degree(divergence)
    return None if found is None or float(found.max()) <= 1 + 1e-6 else round(float(found.max()), 9)


def _temperature(objective: ScheduledObjective) -> float:
    found = objective.temperatures
    if len(found) > 1:
        raise InputError("loss.temperature: a schedule; a cache has one temperature")
    return next(iter(found))
