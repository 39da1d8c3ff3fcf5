"""What every trainer does with its steps, on the smallest one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from abkd.engine import EngineTrainer


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Numbers, of which every other one does not count."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.ones(1), "labels": torch.tensor(index % 2)}


class Trainer(EngineTrainer):
    def count_items(self, batch: Any) -> int:
        return int(batch["labels"].sum())

    def mean_loss(self, model: nn.Module, inputs: Any) -> tuple[Any, Any]:
        return (model(inputs["x"])[:, 0] * inputs["labels"]).sum() / max(self.count_items(inputs), 1), None


def test_a_step_in_which_nothing_counts_changes_nothing(tmp_path: Path) -> None:
    args = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        optim="sgd",
        logging_steps=1,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    trainer = Trainer(model, args, train_dataset=Rows())
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert sorted(losses, key=abs)[:2] == [0, 0]
    assert abs(before - model.weight.item() - 2) < 1e-6
