"""Rows as token ids, exactly as the trainer makes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from abkd.errors import InputError
from abkd.lm.data._prepare import prepare


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
    args = SimpleNamespace(
        dataset_num_proc=None,
        dataset_text_field=text_field,
        completion_only_loss=False if prompts else None,
        assistant_only_loss=False,
        max_length=max_length,
        truncation_mode="keep_start",
        shuffle_dataset=False,
    )
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    return prepare(trainer, dataset, tokenizer, args, packing=False, where="the data set", name="the")
