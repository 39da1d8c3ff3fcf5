"""Rows of token ids: which positions count, the key of a row's content, and the rows inside a batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from abkd.errors import InputError

Array = NDArray[Any]
IGNORED = -100
KEY_BYTES = 16
_MASKS = ("completion_mask", "assistant_masks")
_LENGTHS = "seq_lengths"


class Row(NamedTuple):
    """One text: token ids (L,), and for each but the last whether the token after it counts, (L - 1,) bool."""

    ids: Array
    counted: Array

    @property
    def key(self) -> bytes:
        """16 bytes that change with any token of the text."""
        return hashlib.blake2b(self.ids.astype("<i4").tobytes(), digest_size=KEY_BYTES).digest()


def row_of(example: Mapping[str, Any]) -> Row:
    """The row in an example of tokenised data: `input_ids`, and `labels` or the masks that TRL makes them from.

    Without labels and masks every token counts.

    Raises:
        InputError: labels or a mask of another length.
    """
    ids = np.asarray(example["input_ids"], dtype=np.int32)
    if "labels" in example:
        parts = [np.asarray(example["labels"], dtype=np.int64) != IGNORED]
    else:
        parts = [np.asarray(example[name], dtype=np.int64) != 0 for name in _MASKS if name in example]
    counts = np.ones(len(ids), dtype=bool)
    for part in parts:
        if part.shape != ids.shape:
            raise InputError(f"a row has {len(ids)} tokens, but labels or a mask of {len(part)}: tokenise it anew")
        counts &= part
    return Row(ids, counts[1:])


def padded(rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows as one batch, filled up on the right with id 0.

    Returns:
        Token ids (B, S), the attention mask (B, S) of 0 and 1, and which tokens after the first count (B, S - 1), bool.
    """
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    counted = torch.zeros((len(rows), longest - 1), dtype=torch.bool)
    for line, row in enumerate(rows):
        ids[line, : len(row.ids)] = torch.from_numpy(row.ids)
        mask[line, : len(row.ids)] = 1
        counted[line, : len(row.counted)] = torch.from_numpy(row.counted)
    return ids, mask, counted


def rows_in(batch: Mapping[str, Any]) -> list[Row]:
    """The texts in a batch that have tokens to learn, in the order of their positions, row by row.

    Args:
        batch: `input_ids` and `labels` (B, S); `attention_mask` (B, S) where it is padded, `position_ids` (B, S)
            where texts are packed: each then begins at a position 0.

    Raises:
        InputError: a token that counts is the first of its text, so that nothing predicts it.
    """
    ids, labels = _host(batch["input_ids"]), _host(batch["labels"])
    mask = _host(batch["attention_mask"]) if batch.get("attention_mask") is not None else np.ones_like(ids)
    places = batch.get("position_ids")
    starts = None if places is None else _host(places) == 0
    found: list[Row] = []
    for line in range(len(ids)):
        real = np.flatnonzero(mask[line])
        cuts = [] if starts is None else np.flatnonzero(starts[line][real])
        for piece in np.split(real, [cut for cut in cuts if cut > 0]):
            counts = labels[line][piece] != IGNORED
            if not counts.any():
                continue
            if counts[0] and piece[0] > 0:
                raise InputError(
                    "a token that counts is the first of a packed text, so that no position predicts it: set the "
                    "label of each text's first token to -100"
                )
            if counts[1:].any():
                found.append(Row(ids[line][piece], counts[1:]))
    return found


def check_tokenised(dataset: Any, what: str) -> None:
    """A `datasets.Dataset` with `input_ids`, and with at least one row.

    Args:
        dataset: what was given.
        what: its name, for the message.

    Raises:
        InputError: it is not.
    """
    columns = getattr(dataset, "column_names", None)
    if not isinstance(columns, list) or not hasattr(dataset, "select"):
        raise InputError(f"{what}: expected a datasets.Dataset, got {type(dataset).__name__}")
    if "input_ids" not in columns:
        found = ", ".join(cast("list[str]", columns))
        raise InputError(
            f"{what}: expected tokenised rows (input_ids, labels), found the columns {found}: "
            "tokenise them with abkd.lm.data.tokenise, or take a trainer's train_dataset"
        )
    if len(dataset) == 0:
        raise InputError(f"{what}: the data set is empty")


def texts_of(dataset: Any) -> Iterator[tuple[int, Row]]:
    """All texts of tokenised data and the numbers of their rows, of which a packed one holds several (TRL's
    `seq_lengths`).
    """
    packed = [_LENGTHS] if _LENGTHS in dataset.column_names else []
    for number, example in enumerate(dataset.select_columns([*row_columns(dataset), *packed])):
        row = row_of(example)
        cuts = np.cumsum(example[_LENGTHS])[:-1] if packed else []
        counts = np.concatenate([np.zeros(1, dtype=bool), row.counted])
        for ids, counted in zip(np.split(row.ids, cuts), np.split(counts, cuts), strict=True):
            yield number, Row(ids, counted[1:])


def row_columns(dataset: Any) -> list[str]:
    """The columns of tokenised data that `row_of` reads."""
    return [name for name in ("input_ids", "labels", *_MASKS) if name in dataset.column_names]


def fingerprint_of_rows(rows: Sequence[Row]) -> str:
    """SHA-256 over all rows in their order: token ids and which of them count."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.key)
        digest.update(np.packbits(row.counted).tobytes())
    return digest.hexdigest()


def fingerprint_of_tokenizer(tokenizer: Any) -> str:
    """SHA-256 over the tokens' strings and ids: two tokenizers with the same one mean the same by every id."""
    vocabulary = cast("dict[str, int]", tokenizer.get_vocab())
    text = json.dumps(sorted((number, token) for token, number in vocabulary.items()), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def vocabulary_of(tokenizer: Any) -> int:
    """The number of real classes: the largest id + 1."""
    return max(cast("dict[str, int]", tokenizer.get_vocab()).values()) + 1


def _host(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy()
