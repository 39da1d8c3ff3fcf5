"""What a batch holds for the loss: which positions count, and what goes into a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from abkd.teachers._token_rows import IGNORED

OWN_TEXT = "own_text"
"""Key of a batch that the student wrote (True); absent for the data set's text."""
ROLLOUT = "rollout"
"""Key of what a policy gradient needs to remember of the moment the text was written."""
PRETRAIN = "pretrain"
"""Key of a batch of plain text for the language-modelling loss."""
_NOT_INPUTS = ("labels", OWN_TEXT, ROLLOUT, PRETRAIN)


def counted(batch: Mapping[str, Any]) -> Tensor:
    """Which positions predict a token that counts, (B, S - 1) bool: position t stands for the token at t + 1."""
    return batch["labels"][:, 1:] != IGNORED


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is called with: everything but labels and this library's own notes."""
    return {name: value for name, value in batch.items() if name not in _NOT_INPUTS}


def tokens_read(batch: Mapping[str, Any]) -> int:
    """Tokens in the batch, padding left out."""
    mask = batch.get("attention_mask")
    return int(mask.sum()) if mask is not None else batch["input_ids"].numel()


def prompts_of(batch: Mapping[str, Any]) -> list[list[int]]:
    """The prompt of each row: all before the last run of labelled tokens, so the last turn of a dialogue.

    A row whose labels start at its first token has an empty prompt. Padding is no part of it, on either side.
    """
    prompts: list[list[int]] = []
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    for row, labels, real in zip(*(part.tolist() for part in (batch["input_ids"], batch["labels"], mask)), strict=True):
        end = len(labels)
        while end > 0 and labels[end - 1] == IGNORED:
            end -= 1
        start = end
        while start > 0 and labels[start - 1] != IGNORED:
            start -= 1
        prompts.append([token for token, is_real in zip(row[:start], real[:start], strict=True) if is_real])
    return prompts


def own_batch(prompts: list[list[int]], responses: list[list[int]], pad: int, device: Any) -> dict[str, Any]:
    """A batch of texts that a model wrote: prompt, response, then padding on the right.

    Labels are the response's tokens, its EOS included; prompt and padding are ignored *by position*, so a pad token
    that is also the EOS, or that stands in a prompt, changes nothing.

    Args:
        prompts: token ids.
        responses: token ids, up to the first EOS and with it; not empty.
        pad: the id that fills up.
        device: where the tensors go.
    """
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    shape = (len(prompts), max(lengths))
    batch = {
        "input_ids": torch.full(shape, pad),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORED),
    }
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        text, start, end = torch.tensor(prompt + response), len(prompt), lengths[row]
        batch["input_ids"][row, :end] = text
        batch["attention_mask"][row, :end] = 1
        batch["labels"][row, start:end] = text[start:]
    return {**{name: value.to(device) for name, value in batch.items()}, OWN_TEXT: True}
