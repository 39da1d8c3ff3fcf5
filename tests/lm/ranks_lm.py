"""One of two processes of a run: `torchrun ... ranks_lm.py FOLDER`. Not a test; `test_distributed_lm.py` starts it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import datasets
import lm_toys
import torch
from transformers import AutoTokenizer

from abkd.engine import leave

RUNS: dict[str, dict[str, Any]] = {
    "abkd": {"optim": "sgd", "learning_rate": 0.5, "gradient_accumulation_steps": 2},
    "gkd": {
        "method": "gkd",
        "student_text": {"share": 0.5, "replay": 20, "max_new_tokens": 12},
        "max_steps": 6,
        "validation_texts": {"max_new_tokens": 8},
    },
    "minillm": {"method": "minillm", "max_new_tokens": 6, "method_settings": {"epochs": 2}},
    "seqkd": {"method": "seqkd", "max_new_tokens": 4},
}


def run(name: str, folder: Path, batch: int) -> tuple[Any, list[bool]]:
    """Train; returns the trainer, and which batches the student wrote."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    student, teacher = lm_toys.tiny_model(seed=1, layers=1), lm_toys.tiny_model(seed=2)
    plain = datasets.Dataset.from_dict({"text": lm_toys.sentences()[300:310]})
    extra = {"pretrain_dataset": plain} if name == "minillm" else {}
    settings = {**extra, "per_device_train_batch_size": batch, "eval_dataset": lm_toys.instructions(5), **RUNS[name]}
    trainer = lm_toys.make_trainer(folder / name, tokenizer, student, teacher, **settings)
    chosen: list[bool] = []
    prepare = trainer.prepare_batches

    def watched(batches: list[Any]) -> list[Any]:
        found = prepare(batches)
        chosen.extend(bool(one.get("own_text")) for one in found)
        return found

    trainer.prepare_batches = watched
    trainer.train()
    trainer.final_metrics = trainer.evaluate()
    return trainer, chosen


def main() -> None:
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    for name in RUNS:
        trainer, chosen = run(name, folder, 2)
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        found = {"weights": lm_toys.weights(trainer.accelerator.unwrap_model(trainer.model)), "chosen": chosen}
        torch.save({**found, "losses": losses, "metrics": trainer.final_metrics}, folder / f"{name}-{rank}.pt")
    del trainer
    leave()
    threads = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    torch.save([name for name in threads if "gloo" in name], folder / f"threads-{rank}.pt")


if __name__ == "__main__":
    main()
