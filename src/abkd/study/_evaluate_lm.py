"""Measuring saved language students again: on the rows of their run, or on test sets of one's choice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abkd.errors import InputError
from abkd.study._folder import ANSWERS
from abkd.study._lm import quiet_libraries
from abkd.study._plan import Newest

if TYPE_CHECKING:
    from abkd.lm import LmParts, LmRun
    from abkd.lm.evaluation import Decoding

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
    from abkd.lm import LmRun, lm_config, load_model, load_parts
    from abkd.lm._parts import place_of
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
    batch_size: int = 16,
    progress: bool = True,
) -> Any:
    """The published instruction protocol on a saved model: an `abkd.lm.EvaluationResult`.

    Args:
        target: a run folder, a model folder, or a model's name.
        sets: names or paths for `abkd.lm.data.load_instructions`, or loaded data sets by name.
        output: where the texts and results go; None keeps none.
        which: of a run folder, `best` or `last`.
        template: "alpaca", "chat" or "plain"; None is that of the run, "alpaca" where the target is no run.
        root: the folder of MiniLLM's data.
        size: only the first so many rows of each set.
        drop_empty: leave out rows with an empty reference, which are refused otherwise.
        seeds: of the sampling; the published five if None.
        max_new_tokens: of a response; None is as in the run, 256 where the target is no run.
        max_prompt_length: tokens; longer prompts are shortened inside their template. None is as in the run, 256
            where the target is no run.
        batch_size: prompts at a time.
        progress: show bars.

    Raises:
        InputError: no model there, a set that cannot be read, or a prompt in one that is too long.
        CorruptFileError: the model that a run saved has changed since.
    """
    from abkd.lm import (
        LmData,
        LmEvaluation,
        LmRun,
        LmStudent,
        load_model,
        load_sets,
        load_tokenizer,
        model_path,
    )
    from abkd.lm._parts import place_of
    from abkd.lm.evaluation import SEEDS, evaluate

    quiet_libraries()
    place = Path(target)
    name = str(place / which) if (place / which / "config.json").is_file() else model_path(target)
    tokenizer = load_tokenizer(name)
    usual, decoding = asked_as(Path(name).parent)
    given = {"max_new_tokens": max_new_tokens, "max_prompt_length": max_prompt_length}
    decoding = replace(decoding, **{key: value for key, value in given.items() if value is not None})
    if not isinstance(sets, Mapping):
        named = LmRun(
            LmStudent(name),
            LmData("unused", template=template or usual, root=root, drop_empty=drop_empty),
            evaluation=LmEvaluation(sets=tuple(sets), size=size),
        )
        sets = load_sets(named, tokenizer)
    return evaluate(
        load_model(name).to(place_of({})),
        tokenizer,
        sets,
        seeds=seeds or SEEDS,
        decoding=decoding,
        batch_size=batch_size,
        folder=output,
        progress=progress,
    )


def asked_as(run: Path) -> tuple[str, Decoding]:
    """Template and decoding with which a run's recipe asks test sets; the published ones where there is no run."""
    from abkd.engine import RunFolder
    from abkd.lm import LmRun
    from abkd.lm.evaluation import Decoding

    if not RunFolder(run).holds_run():
        return "alpaca", Decoding()
    settings = LmRun.from_dict(RunFolder(run).settings())
    return settings.data.template, settings.decoding()
