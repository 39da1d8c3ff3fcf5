"""TRL's preparation of rows, told for each data set by its own form which tokens are a response."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from abkd.errors import needed
from abkd.lm._row_forms import (
    ENDED,
    can_mark_answers,
    check_columns,
    check_completions,
    check_labels,
    check_template,
    is_dialogue,
    of_one_form,
    report_dropped,
    split_turns,
    wants_assistant_only,
)
from abkd.lm.data._cut import without_false_ends


def prepare(trainer: Any, dataset: Any, tokenizer: Any, args: Any, *, packing: bool, where: str, name: str) -> Any:
    """Rows with `input_ids` and `labels`, which are -100 outside the response, cut to `args.max_length` or packed.

    TRL decides by the training rows for all data sets; here each has what its own columns ask for: of prompt and
    completion the completion counts (with `args.completion_only_loss=False` both), of messages the assistant's turns,
    by the marks of the chat template or, without marks, each in a row of its own, of plain text everything.
    Completions that were cut by whoever wrote them get no end. Rows without a token that counts are left out.

    Args:
        trainer: TRL's SFTTrainer, or what its preparation reads of one; the form is noted there.
        dataset: in one of TRL's forms, tokenised or not.
        tokenizer: of the student.
        args: as TRL's SFTConfig.
        packing: put several rows into one.
        where: the data set's name, for messages.
        name: its name in progress bars.

    Raises:
        InputError: other columns, empty responses, messages for a tokenizer without a chat template, or no row left.
    """
    row = check_columns(dataset, where, args.dataset_text_field)
    dataset, row = of_one_form(dataset, row, where, args.dataset_text_field)
    check_completions(dataset, where)
    check_labels(dataset, where)
    check_template(row, tokenizer)
    wanted = wants_assistant_only(row) or (args.assistant_only_loss and is_dialogue(row))
    marked = wanted and can_mark_answers(tokenizer)
    split = wants_assistant_only(row) and not marked
    if split:
        dataset = split_turns(dataset, where)
        row = check_columns(dataset, where, args.dataset_text_field)
    with needed("trl", "lm"):
        from trl.chat_template_utils import get_training_chat_template, has_generation_markers
        from trl.trainer.sft_trainer import SFTTrainer

    completion_only = split or args.completion_only_loss is not False
    trainer.completion_only_loss = {"prompt", "completion"} <= set(row) and completion_only
    known = not marked or has_generation_markers(tokenizer.chat_template)
    trainer.chat_template = None if known else get_training_chat_template(tokenizer)

    def by_trl(rows: Any, *, packing: bool, **changes: Any) -> Any:
        own = copy.copy(args)
        for key, value in {"assistant_only_loss": marked, **changes}.items():
            setattr(own, key, value)
        once: Any = SFTTrainer._prepare_dataset  # pyright: ignore[reportPrivateUsage]
        return once(trainer, rows, tokenizer, own, packing, None, name)

    before = len(dataset) if hasattr(dataset, "__len__") else None
    columns = list(getattr(dataset, "column_names", None) or [])
    if ENDED in columns and "input_ids" not in columns:
        whole = by_trl(dataset, packing=False, max_length=None, shuffle_dataset=False)
        dataset = without_false_ends(whole, tokenizer)
        dataset = dataset.remove_columns([column for column in columns if column in dataset.column_names and packing])
    found = by_trl(dataset, packing=packing)
    if packing or args.max_length is None:  # TRL leaves such rows out where it cuts them itself
        found = found.filter(_teaches)
    report_dropped(before, found, where, args.max_length, packed=packing)
    return found


def _teaches(row: Mapping[str, Any]) -> bool:
    return any(label != -100 for label in row["labels"])
