"""What can be told of a run's rows and texts before anything is trained, and would otherwise fail at its end."""

from __future__ import annotations

from typing import Any

from abkd.errors import InputError
from abkd.lm._settings import LmRun
from abkd.lm._validation_texts import ROUGE_L, check_validation_prompts, validation_texts_of
from abkd.lm.evaluation._evaluate import rows_to_answer


def check_rows(settings: LmRun, rows: dict[str, Any], sets: dict[str, Any], tokenizer: Any, config: Any | None) -> None:
    """Nothing is chosen by the rows that it is tested on, and every text that will be written has room.

    Args:
        settings: the run.
        rows: of `load_rows`.
        sets: of `load_sets`.
        tokenizer: the student's.
        config: the student's, for its positions; None where it is not known yet.

    Raises:
        InputError: the validation rows are those of a test set, or a prompt is too long.
    """
    validation = rows.get("validation")
    for name, dataset in sets.items():
        if validation is not None and _same_tasks(validation, dataset):
            raise InputError(
                f"data.validation: its rows are those of the test set {name!r}, so the epoch would be chosen by what "
                "it is tested on: hold out a share of the training rows, data.validation=0.1, or name another file"
            )
        rows_to_answer(f"evaluation.sets: {name}", dataset, tokenizer, settings.decoding(), config)
    written = settings.training.get("validation_texts")
    chosen = settings.training.get("select_by") == ROUGE_L
    if validation is not None and config is not None and (chosen or written is not None):
        check_validation_prompts(validation, validation_texts_of(written or {}), tokenizer, config)


def _same_tasks(validation: Any, tested: Any) -> bool:
    """Whether all tasks of one are among the tasks of the other, which may hold more (a set cut to its first rows)."""
    one, other = _tasks(validation), _tasks(tested)
    return one <= other or other <= one


def _tasks(rows: Any) -> set[str]:
    """What is asked in each row: in words where they are known, since prompts may have been shortened."""
    if "messages" in rows.column_names:
        return {repr(messages) for messages in rows["messages"]}
    return {repr((row["instruction"], row["input"]) if row.get("instruction") else row["prompt"]) for row in rows}
