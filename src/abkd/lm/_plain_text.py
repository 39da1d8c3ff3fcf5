"""Plain text beside the data set, for the language-modelling loss of the published recipes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from abkd.errors import InputError

_TEXTS_AT_ONCE = 1000


class PlainText:
    """Plain text cut into pieces of equal length, drawn in an order that depends on the seed alone.

    Each piece is a row of tokens, all of them labels but the first; texts follow each other with an EOS between.
    Which pieces a batch holds is a function of seed, step, place in the step and rank, so a resumed run reads on
    where it stopped. The pieces are made by `datasets.map`, 1,000 texts at a time (what is left over of these is
    dropped): those of text on the disk lie there too, are never in memory as a whole, and are not made twice.

    Args:
        dataset: a `datasets.Dataset` with a column of text.
        tokenizer: of the student.
        column: its name.
        length: tokens a piece; shorter where there is less text.
        batch: pieces a batch.
        seed: of the order.

    Raises:
        InputError: no such column, no text, or a data set that is streamed.
    """

    def __init__(self, dataset: Any, tokenizer: Any, column: str, length: int, batch: int, seed: int) -> None:
        names: list[str] = list(getattr(dataset, "column_names", None) or [])
        if column not in names:
            raise InputError(f"pretrain_dataset: expected a column {column!r} of plain text; found {', '.join(names)}")
        if not hasattr(dataset, "select_columns") or not hasattr(dataset, "__len__"):
            raise InputError(
                f"pretrain_dataset: expected a datasets.Dataset, got {type(dataset).__name__}: its pieces are drawn in "
                "any order, which a stream cannot do; load it without streaming (it stays on the disk)"
            )
        texts = dataset.select_columns([column])
        self.pieces = _pieces(texts, tokenizer, column, length)
        if len(self.pieces) == 0:  # less text than one piece
            self.pieces = _pieces(texts, tokenizer, column, max(_tokens(texts, tokenizer, column), 1))
        if len(self.pieces) == 0 or len(self.pieces[0]["input_ids"]) < 2:
            raise InputError("pretrain_dataset holds no text")
        self._batch, self._seed = batch, seed
        self._order: tuple[int, list[int]] = (-1, [])

    def batch(self, number: int, device: Any) -> dict[str, Tensor]:
        """Batch `number` of the run, counted over steps, places and ranks."""
        places = range(number * self._batch, (number + 1) * self._batch)
        ids = torch.stack([torch.tensor(self.pieces[self._piece(place)]["input_ids"]) for place in places]).to(device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}

    def _piece(self, place: int) -> int:
        turn, within = divmod(place, len(self.pieces))
        if self._order[0] != turn:
            order = list(range(len(self.pieces)))
            random.Random(f"{self._seed}, plain text, turn {turn}").shuffle(order)
            self._order = (turn, order)
        return self._order[1][within]


def _pieces(texts: Any, tokenizer: Any, column: str, length: int) -> Any:
    """Rows of `length` tokens each."""
    from datasets import Features, Sequence, Value

    def cut(batch: Mapping[str, list[str]]) -> dict[str, list[list[int]]]:
        tokens = _joined(batch[column], tokenizer)
        return {"input_ids": [tokens[start : start + length] for start in range(0, len(tokens) - length + 1, length)]}

    features = Features({"input_ids": Sequence(Value("int32"))})
    return texts.map(
        cut, batched=True, batch_size=_TEXTS_AT_ONCE, remove_columns=[column], features=features, desc="Plain text"
    )


def _tokens(texts: Any, tokenizer: Any, column: str) -> int:
    """How many there are, up to the first 1,000 texts."""
    return len(_joined(texts[:_TEXTS_AT_ONCE][column], tokenizer))


def _joined(texts: list[str], tokenizer: Any) -> list[int]:
    tokens: list[int] = []
    for text in texts:
        if text:
            tokens += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return tokens
