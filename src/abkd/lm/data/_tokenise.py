"""Rows as token ids, exactly as the trainer makes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from abkd.errors import InputError, needed
from abkd.lm._data import (
    can_mark_answers,
    check_columns,
    check_completions,
    check_template,
    report_dropped,
    split_turns,
    wants_assistant_only,
)
from abkd.lm.data._cut import without_false_ends


def tokenise(
    dataset: Any,
    tokenizer: Any,
    *,
    max_length: int | None = 1024,
    text_field: str = "text",
    prompts: bool = False,
) -> Any:
    """Tokenised rows (`input_ids`, `labels`, and the data set's own columns), by TRL's own preparation.

    Labels are -100 outside the response: of prompt and completion the completion with its EOS counts, of messages
    the assistant's turns (where the template does not mark them, each in a row of its own), of plain text
    everything. A completion with False in the column `completion_ended` was cut by whoever wrote it: no EOS follows.
    A trainer with the same tokenizer and `max_length` makes the same rows, so a teacher cache can be built from
    these. Rows whose prompt fills `max_length` are left out.

    Args:
        dataset: a `datasets.Dataset` in one of TRL's forms.
        tokenizer: the teacher's and the student's.
        max_length: tokens of a row; None does not cut. TRL's default is 1024.
        text_field: the column of plain text.
        prompts: let prompts count as well, as `completion_only_loss=False` does.

    Raises:
        InputError: other columns, empty responses, messages for a tokenizer without a chat template, or no row left.
    """
    if max_length is not None and max_length < 2:
        raise InputError(f"max_length: expected at least 2 tokens, got {max_length}")
    row = check_columns(dataset, "the data set", text_field)
    check_completions(dataset, "the data set")
    check_template(row, tokenizer)
    assistant_only = wants_assistant_only(row)
    if assistant_only and not can_mark_answers(tokenizer):
        assistant_only, dataset = False, split_turns(dataset, "the data set")
        row = check_columns(dataset, "the data set", text_field)
    with needed("trl", "lm"):
        from trl.chat_template_utils import get_training_chat_template, has_generation_markers
        from trl.trainer.sft_trainer import SFTTrainer

    marked = not assistant_only or has_generation_markers(tokenizer.chat_template)
    trainer = SimpleNamespace(
        _tokenizer=tokenizer,
        completion_only_loss="prompt" in row and "completion" in row and not prompts,
        chat_template=None if marked else get_training_chat_template(tokenizer),
    )
    args = SimpleNamespace(
        dataset_num_proc=None,
        dataset_text_field=text_field,
        assistant_only_loss=assistant_only,
        max_length=max_length,
        truncation_mode="keep_start",
        shuffle_dataset=False,
    )
    prepare: Any = SFTTrainer._prepare_dataset  # pyright: ignore[reportPrivateUsage]
    rows = without_false_ends(prepare(trainer, dataset, tokenizer, args, False, None, "train"), tokenizer)
    report_dropped(len(dataset), rows, "the data set", max_length)
    return rows
