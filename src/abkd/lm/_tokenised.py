"""What tokenised rows ask of the models, looked up once before training: ids that all know, room to write in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from abkd.errors import InputError
from abkd.lm._batch import IGNORED
from abkd.lm._generate import check_lengths
from abkd.teachers._token_rows import row_columns

_ROWS = 1000


def check_ids(dataset: Any, where: str, tokenizer: Any, classes: int) -> None:
    """Every token of tokenised rows is below the number of classes compared; a stream of rows is not read for it.

    Args:
        dataset: with `input_ids`.
        where: its name, for the message.
        tokenizer: what it was tokenised with, to name the token.
        classes: how many ids student and teacher share, from 0.

    Raises:
        InputError: a token is not; the message names the largest.
    """
    if not _can_be_read(dataset):
        return
    from pyarrow import compute as found

    compute: Any = found  # its functions are made at import, where no type checker sees them
    largest = -1
    for table in dataset.select_columns(["input_ids"]).with_format("arrow").iter(_ROWS):
        largest = max(largest, compute.max(compute.list_flatten(table["input_ids"])).as_py() or 0)
    if largest >= classes:
        raise InputError(
            f"{where}: token {tokenizer.convert_ids_to_tokens(largest)!r} (id {largest}) is not among the {classes} "
            "that tokenizer, student and teacher share: a token was added to one alone. Leave it out of the data and "
            "the chat template, add it to both models (model.resize_token_embeddings), or use method 'seqkd'"
        )


def check_room(dataset: Any, where: str, models: dict[str, Any], new_tokens: int) -> None:
    """Every row has a prompt, and models have positions for it and a text; a stream of rows is not read for it.

    Args:
        dataset: with `input_ids`, and labels or masks.
        where: its name, for the message.
        models: causal language models by whose they are.
        new_tokens: that a text may have.

    Raises:
        InputError: a row has none, or they have not.
    """
    if not _can_be_read(dataset):
        return
    prompts = [range(length) for length in prompt_lengths(dataset)]
    for whose, model in models.items():
        check_lengths(model.config, prompts, new_tokens, f"{where}, read by the {whose}")


def prompt_lengths(dataset: Any) -> Iterator[int]:
    """Tokens before the last run of tokens that count, row by row: what is written on from (see `prompts_of`)."""
    columns = row_columns(dataset)
    for row in dataset.select_columns(columns):
        counts = np.ones(len(row["input_ids"]), dtype=bool)
        for name in columns:
            if name != "input_ids":
                counts &= np.asarray(row[name]) != IGNORED if name == "labels" else np.asarray(row[name]) != 0
            if name == "labels":
                break  # TRL's collator takes them as they are
        last = np.flatnonzero(counts)
        before = np.flatnonzero(~counts[: last[-1]]) if len(last) else last
        yield int(before[-1]) + 1 if len(before) else 0


def _can_be_read(dataset: Any) -> bool:
    return hasattr(dataset, "__len__") and "input_ids" in (getattr(dataset, "column_names", None) or [])
