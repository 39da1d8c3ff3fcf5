"""One of two processes of whole runs (gloo, on the CPU), data-parallel or by DeepSpeed: `torchrun ... FOLDER STAGE`.

Not a test; `test_deepspeed_lm.py` starts it. STAGE is ZeRO's, or `none` for data-parallel runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import datasets
import lm_toys
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import AutoTokenizer

from abkd.engine import leave

RUNS: dict[str, dict[str, Any]] = {
    "abkd": {"optim": "sgd", "learning_rate": 0.5, "gradient_accumulation_steps": 2},
    "gkd": {"method": "gkd", "student_text": {"share": 0.5, "replay": 20, "max_new_tokens": 12}, "max_steps": 6},
    "minillm": {"method": "minillm", "max_new_tokens": 6, "student_text": {"teacher_mix": 0.0}},
    "mixed": {"method": "minillm", "max_new_tokens": 6},  # its processes do not ask the teacher equally often
}
RESUMED = {**RUNS["abkd"], "save_strategy": "steps", "save_steps": 2, "max_steps": 3}


def by_deepspeed(stage: int) -> dict[str, Any]:
    """Arguments of a trainer under DeepSpeed."""
    zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    config = {"zero_optimization": zero, "zero_allow_untested_optimizer": True, **dict.fromkeys(sizes, "auto")}
    return {"deepspeed": config, "use_cpu": False}


def take_two_cpus_for_accelerators() -> None:
    """accelerate starts DeepSpeed on accelerators alone."""
    setattr(PartialState, "_prepare_backend", lambda *_: ("gloo", DistributedType.MULTI_CPU))  # noqa: B010


def run(folder: Path, settings: dict[str, Any], *, resume: str | None = None) -> dict[str, Any]:
    """Train, evaluate and save; the logged losses and the metrics."""
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "tokenizer")
    student, teacher = lm_toys.tiny_model(seed=1, layers=1), lm_toys.tiny_model(seed=2)
    given = {"per_device_train_batch_size": 2, "eval_dataset": lm_toys.instructions(5), **settings}
    trainer = lm_toys.make_trainer(folder, tokenizer, student, teacher, **given)
    trainer.train(resume_from_checkpoint=resume)
    metrics = {name: value for name, value in trainer.evaluate().items() if not name.endswith(("runtime", "second"))}
    trainer.save_model(str(folder / "saved"))
    return {"losses": [line["loss"] for line in trainer.state.log_history if "loss" in line], "metrics": metrics}


def main() -> None:
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    folder, stage, rank = Path(sys.argv[1]), sys.argv[2], os.environ["RANK"]
    spread: dict[str, Any] = {}
    if stage != "none":
        take_two_cpus_for_accelerators()
        spread = by_deepspeed(int(stage))
    names = [name for name in RUNS if stage != "3" or name != "mixed"]
    found = {name: run(folder / f"{name}-{stage}", {**RUNS[name], **spread}) for name in names}
    place = folder / f"resumed-{stage}"
    run(place, {**RESUMED, **spread})
    found["resumed"] = run(place, {**RESUMED, **spread}, resume=str(place / "checkpoint-2"))
    torch.save(found, folder / f"{stage}-{rank}.pt")
    leave()


if __name__ == "__main__":
    main()
