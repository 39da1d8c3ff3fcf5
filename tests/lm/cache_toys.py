"""What the tests of the teacher cache share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_toys
import torch
from torch import Tensor
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from abkd.losses import SparseTargets
from abkd.teachers import LmCache


def build(rows: Any, teacher: Any, tokenizer: Any, folder: Path, **options: Any) -> LmCache:
    return LmCache.build(
        rows, teacher, tokenizer, folder, **{"rows_per_part": 7, "progress": False, "bits": 8, **options}
    )


def collated(rows: list[Any], **options: Any) -> dict[str, Any]:
    return DataCollatorForLanguageModeling(pad_token_id=1, **options)(rows)


def live_log_probs(teacher: Any, batch: dict[str, Any]) -> Tensor:
    """(N, V) of the counted positions."""
    keep = batch["labels"][:, 1:] != -100
    with torch.no_grad():
        logits = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, :-1][keep].log_softmax(-1)


def dense(targets: SparseTargets, vocabulary: int = lm_toys.VOCABULARY) -> Tensor:
    """(N, V) with -inf where an entry was not kept."""
    line = torch.full((len(targets.ids), vocabulary + 1), -torch.inf)
    ids = torch.where(targets.ids < 0, vocabulary, targets.ids)
    return line.scatter(1, ids, targets.log_probs)[:, :vocabulary]
