"""Plain text beside the data set, for the language-modelling loss of the published recipes."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from abkd.errors import InputError


class PlainText:
    """Plain text cut into pieces of equal length, drawn in an order that depends on the seed alone.

    Each piece is a row of tokens, all of them labels but the first; texts follow each other with an EOS between.
    Which pieces a batch holds is a function of seed, step, place in the step and rank, so a resumed run reads on
    where it stopped.

    Args:
        dataset: rows with a column of text.
        tokenizer: of the student.
        column: its name.
        length: tokens a piece; shorter where there is less text.
        batch: pieces a batch.
        seed: of the order.

    Raises:
        InputError: no such column, or no text.
    """

    def __init__(self, dataset: Any, tokenizer: Any, column: str, length: int, batch: int, seed: int) -> None:
        names: list[str] = list(getattr(dataset, "column_names", None) or [])
        if column not in names:
            raise InputError(f"pretrain_dataset: expected a column {column!r} of plain text; found {', '.join(names)}")
        tokens: list[int] = []
        for text in dataset[column]:
            if text:
                tokens += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        length = min(length, len(tokens))
        if length < 2:
            raise InputError("pretrain_dataset holds no text")
        count = len(tokens) // length
        self.pieces = torch.tensor(tokens[: count * length]).view(count, length)
        self._batch, self._seed = batch, seed
        self._order: tuple[int, list[int]] = (-1, [])

    def batch(self, number: int, device: Any) -> dict[str, Tensor]:
        """Batch `number` of the run, counted over steps, places and ranks."""
        places = range(number * self._batch, (number + 1) * self._batch)
        ids = torch.stack([self.pieces[self._piece(place)] for place in places]).to(device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}

    def _piece(self, place: int) -> int:
        turn, within = divmod(place, len(self.pieces))
        if self._order[0] != turn:
            order = list(range(len(self.pieces)))
            random.Random(f"{self._seed}, plain text, turn {turn}").shuffle(order)
            self._order = (turn, order)
        return self._order[1][within]
