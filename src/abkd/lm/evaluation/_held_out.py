"""How well a model predicts text that it was not trained on, and how near it is to its teacher there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from abkd.errors import InputError
from abkd.lm._metrics import entropy, kl
from abkd.teachers._token_rows import check_tokenised, padded, row_columns, row_of, vocabulary_of

_BLOCK = 256


@torch.no_grad()
def held_out(model: Any, dataset: Any, tokenizer: Any, *, teacher: Any = None, batch_size: int = 8) -> dict[str, float]:
    """Means over the tokens that count in tokenised data.

    Args:
        model: a causal language model, in whatever mode; it is measured in eval mode.
        dataset: tokenised rows, as of `abkd.lm.data.tokenise`.
        tokenizer: of both models: its tokens are the classes compared, the padding of heads is left out.
        teacher: another causal language model, or None.
        batch_size: rows at a time.

    Returns:
        `tokens`; in nats `nll` of the text and `student_entropy`, that of the model; with a teacher `forward_kl`
        (teacher to student), `reverse_kl`, `teacher_nll`, `teacher_entropy`, and `agreement`, the share of tokens where
        both hold the same token for the most probable.

    Raises:
        InputError: data that are not tokenised, or without a token that counts.
    """
    check_tokenised(dataset, "held-out rows")
    if batch_size < 1:
        raise InputError(f"batch_size: expected a number of rows of at least 1, got {batch_size}")
    classes = vocabulary_of(tokenizer)
    rows = [row_of(example) for example in dataset.select_columns(row_columns(dataset))]
    rows = sorted((row for row in rows if row.counted.any()), key=lambda row: len(row.ids))
    if not rows:
        raise InputError("no token of this data set counts (all labels are -100), so there is nothing to measure")
    sums: dict[str, float] = {}
    modes = [(each, each.training) for each in (model, teacher) if each is not None]
    try:
        for each, _ in modes:
            each.eval()
        for start in range(0, len(rows), batch_size):
            _add(sums, model, teacher, rows[start : start + batch_size], classes)
    finally:
        for each, training in modes:
            each.train(training)
    tokens = sums.pop("tokens")
    return {"tokens": tokens, **{name: value / tokens for name, value in sums.items()}}


def _add(sums: dict[str, float], model: Any, teacher: Any, rows: list[Any], classes: int) -> None:
    ids, mask, counted = padded(rows)
    labels = ids[:, 1:][counted]
    ours = _logits(model, ids, mask, counted)
    theirs = None if teacher is None else _logits(teacher, ids, mask, counted)
    for start in range(0, len(labels), _BLOCK):
        part = slice(start, start + _BLOCK)
        measures = _measures(
            ours[part, :classes].float().log_softmax(-1),
            None if theirs is None else theirs[part, :classes].to(ours.device).float().log_softmax(-1),
            labels[part].to(ours.device),
        )
        for name, values in measures.items():
            sums[name] = sums.get(name, 0.0) + float(values.double().sum())
        sums["tokens"] = sums.get("tokens", 0.0) + len(labels[part])


def _logits(model: Any, ids: Tensor, mask: Tensor, counted: Tensor) -> Tensor:
    """(N, V) at the counted positions."""
    device = model.device
    logits: Tensor = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
    return logits[:, :-1][counted.to(device)]


def _measures(lq: Tensor, lp: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
    """One value a token, from log-probabilities (N, V) of the model and of its teacher."""
    found = {"nll": nn.functional.nll_loss(lq, labels, reduction="none"), "student_entropy": entropy(lq)}
    if lp is not None:
        found["forward_kl"] = kl(lp, lq)
        found["reverse_kl"] = kl(lq, lp)
        found["teacher_nll"] = nn.functional.nll_loss(lp, labels, reduction="none")
        found["teacher_entropy"] = entropy(lp)
        found["agreement"] = (lp.argmax(-1) == lq.argmax(-1)).float()
    return found
