"""Measuring saved language students again: on the rows of their run, or on test sets of one's choice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abkd.errors import InputError
from abkd.study._lm import quiet_libraries
from abkd.study._plan import Newest

if TYPE_CHECKING:
    from abkd.lm import LmParts, LmRun

_WEIGHTS = "best"


def evaluate_lm_run(settings: Mapping[str, Any], run: Path, which: str, shared: Newest[LmParts]) -> dict[str, float]:
    """KL and NLL of a run's saved model on its own held-out test rows; on its validation rows without any.

    A teacher with another vocabulary is left out.

    Args:
        settings: of the run, as in its run.json.
        run: its folder.
        which: `best` or `last`.
        shared: what an earlier run has loaded.

    Raises:
        InputError: neither kind of rows, or a teacher, rows or answers that are no longer there or have changed.
        CorruptFileError: the saved model has changed since.
    """
    from abkd.engine import ANSWERS, place_of
    from abkd.lm import LmRun, lm_config, load_model, load_parts
    from abkd.lm.data import tokenise
    from abkd.lm.evaluation import held_out

    quiet_libraries()
    wanted = _where_it_lies_now(LmRun.from_dict(settings), run)
    places = [run / ANSWERS, *(parent / ANSWERS for parent in run.resolve().parents[:3])]
    answers = next((place for place in places if place.is_dir()), None)
    cached = wanted.teacher is not None and wanted.teacher.cache is not None  # its answers lie beside the cache
    if wanted.data.answers is not None and answers is None and not cached:
        raise InputError(f"{run}: the teacher's answers (a folder {ANSWERS}/) are no longer beside the run")
    wanted = replace(wanted, evaluation=replace(wanted.evaluation, sets=()))
    named = (wanted.student, wanted.teacher, wanted.data, answers)
    parts = shared.of(named, lambda: load_parts(wanted, answers or run / ANSWERS, progress=False))
    rows = parts.test if parts.test is not None else parts.validation
    if rows is None:
        raise InputError(f"{run}: the run held no rows out; name test sets with --set")
    measured = {"teacher", "validation" if parts.test is None else "test"}
    check_data(run, {name: value for name, value in parts.fingerprints().items() if name in measured})
    place = place_of(wanted.training)
    model = load_model(run / which).to(place)
    teacher = parts.teacher if parts.compares else None
    if teacher is not None:
        teacher.to(place)
    length = lm_config(wanted, "unused").max_length
    tokenised = tokenise(rows, parts.tokenizer, max_length=length)
    return held_out(model, tokenised, parts.tokenizer, teacher=teacher)


def check_data(run: Path, fingerprints: Mapping[str, str]) -> None:
    """A finished run is measured on what it was measured on.

    Raises:
        InputError: that has changed.
    """
    from abkd.engine import RunFolder

    if changed := RunFolder(run).changed(fingerprints):
        raise InputError(f"{run}: {changed} has changed since the run, so it cannot be measured again: restore it")


def _where_it_lies_now(wanted: LmRun, run: Path) -> LmRun:
    """The run with the teacher that its study trained, which may have moved with the study's folder."""
    from abkd.engine import RunFolder

    own = RunFolder(run).trained_teacher()
    if own is None or wanted.teacher is None or Path(str(wanted.teacher.model)).parts[-2:] != (own.name, _WEIGHTS):
        return wanted
    return replace(wanted, teacher=replace(wanted.teacher, model=str(own / _WEIGHTS)))


def evaluate_texts(
    target: str,
    sets: Mapping[str, Any] | tuple[str, ...],
    *,
    output: str | os.PathLike[str] | None = None,
    which: str = _WEIGHTS,
    template: str | None = None,
    root: str | None = None,
    size: int | None = None,
    drop_empty: bool = False,
    seeds: tuple[int, ...] | None = None,
    max_new_tokens: int | None = None,
    max_prompt_length: int | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> Any:
    """The published instruction protocol on a saved model: an `abkd.lm.EvaluationResult`.

    Of a run, template, data folder, seeds, lengths and batch size are its own where they are None; else published ones.

    Args:
        target: a run folder, a model folder, or a model's name.
        sets: names or paths for `abkd.lm.data.load_instructions`, or loaded data sets by name.
        output: where the texts and results go; None keeps none.
        which: of a run folder, `best` or `last`.
        template: "alpaca", "chat" or "plain"; published: "alpaca".
        root: the folder of MiniLLM's data.
        size: only the first so many rows of each set.
        drop_empty: leave out rows with an empty reference, which are refused otherwise (but in such a run).
        seeds: of the sampling; published: 10, 20, 30, 40, 50.
        max_new_tokens: of a response; published: 256.
        max_prompt_length: tokens, published: 256; longer prompts are shortened inside their template.
        batch_size: prompts at a time; published: 16 here. The sampled texts depend on it.
        progress: show bars.

    Raises:
        InputError: no model there, a set that cannot be read, or a prompt in one that is too long.
        CorruptFileError: the model that a run saved has changed since.
    """
    from abkd.engine import place_of
    from abkd.lm import load_model, load_sets, load_tokenizer, model_path
    from abkd.lm.evaluation import evaluate

    quiet_libraries()
    place = Path(target)
    name = str(place / which) if (place / which / "config.json").is_file() else model_path(target)
    tokenizer = load_tokenizer(name)
    run = asked_as(Path(name).parent)
    data = {
        "template": template,
        "root": root,
        "drop_empty": drop_empty or None,
        "max_prompt_length": max_prompt_length,
    }
    asked = {"seeds": seeds, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    named = tuple(sets) if not isinstance(sets, Mapping) else ()
    run = replace(
        run,
        data=replace(run.data, **_given(data)),
        evaluation=replace(run.evaluation, sets=named, size=size, **_given(asked)),
    )
    return evaluate(
        load_model(name).to(place_of({})),
        tokenizer,
        sets if isinstance(sets, Mapping) else load_sets(run, tokenizer),
        seeds=run.evaluation.seeds,
        decoding=run.decoding(),
        batch_size=run.evaluation.batch_size,
        folder=output,
        progress=progress,
    )


def asked_as(run: Path) -> LmRun:
    """A run, for how it asks its student; one that asks as published where there is no run in the folder."""
    from abkd.engine import RunFolder
    from abkd.lm import LmData, LmRun, LmStudent

    if not RunFolder(run).holds_run():
        return LmRun(LmStudent("unused"), LmData("unused"))
    return LmRun.from_dict(RunFolder(run).settings())


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}
