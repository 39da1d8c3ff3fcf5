"""Runs that must give the same: however a step's rows are divided, packed, padded, stopped and resumed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lm_toys
import pytest
import torch
from transformers.trainer_callback import TrainerCallback

ROWS = 24


def trained(folder: Path, tokenizer: Any, **settings: Any) -> dict[str, torch.Tensor]:
    student, teacher = lm_toys.tiny_model(seed=1, layers=1), lm_toys.frozen(lm_toys.tiny_model(seed=2))
    trainer = lm_toys.make_trainer(folder, tokenizer, student, teacher, optim="sgd", learning_rate=0.5, **settings)
    trainer.train()
    return lm_toys.weights(student)


@pytest.mark.parametrize("settings", [{}, {"method": "kd", "ce_weight": 0.5, "kd_weight": 2.0}])
def test_eight_rows_at_once_or_one_by_one(tmp_path: Path, tokenizer: Any, settings: dict[str, Any]) -> None:
    once = trained(tmp_path / "1", tokenizer, per_device_train_batch_size=8, **settings)
    singly = trained(
        tmp_path / "8", tokenizer, per_device_train_batch_size=1, gradient_accumulation_steps=8, **settings
    )
    assert lm_toys.largest_difference(once, singly) < 1e-6
    assert lm_toys.largest_difference(once, lm_toys.weights(lm_toys.tiny_model(seed=1, layers=1))) > 1e-3


def test_the_logged_loss_does_not_depend_on_accumulation_either(tmp_path: Path, tokenizer: Any) -> None:
    losses = []
    for batch, steps in ((8, 1), (2, 4)):
        student, teacher = lm_toys.tiny_model(seed=1, layers=1), lm_toys.frozen(lm_toys.tiny_model(seed=2))
        trainer = lm_toys.make_trainer(
            tmp_path, tokenizer, student, teacher, per_device_train_batch_size=batch, gradient_accumulation_steps=steps
        )
        trainer.train()
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_evaluation_is_a_mean_over_tokens(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    found = []
    for batch in (1, 3, 8):
        trainer = lm_toys.make_trainer(
            tmp_path,
            tokenizer,
            student,
            teacher,
            per_device_eval_batch_size=batch,
            eval_dataset=lm_toys.instructions(8),
        )
        metrics = trainer.evaluate()
        found.append([metrics[f"eval_{name}"] for name in ("loss", "nll", "divergence", "agreement", "teacher_mass")])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] == pytest.approx(found[2], rel=1e-5)


@pytest.mark.parametrize("method", ["abkd", "sft"])
def test_packed_rows_give_the_loss_and_gradient_of_unpacked_ones(tmp_path: Path, tokenizer: Any, method: str) -> None:
    gradients, losses = [], []
    for settings in (
        {"packing": True, "packing_strategy": "bfd", "max_length": 256, "per_device_train_batch_size": 1},
        {"per_device_train_batch_size": ROWS},
    ):
        student, teacher = lm_toys.tiny_model(seed=1, layers=1), lm_toys.frozen(lm_toys.tiny_model(seed=2))
        trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, method=method, **settings)
        batches = (
            [lm_toys.batch_of(trainer, [row]) for row in range(len(trainer.train_dataset))]
            if "packing" in settings
            else [lm_toys.batch_of(trainer, range(ROWS))]
        )
        count = sum(trainer.count_items(batch) for batch in batches)
        total = 0.0
        for batch in batches:
            part = trainer.compute_loss(trainer.model, batch, num_items_in_batch=count)
            part.backward()
            total += float(part.detach())
        losses.append(total)
        gradients.append({name: parameter.grad.clone() for name, parameter in student.named_parameters()})
    assert len(trainer.train_dataset) == ROWS
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert lm_toys.largest_difference(*gradients) < 1e-6


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


RUNS: dict[str, dict[str, Any]] = {
    "abkd": {"method": "abkd", "alpha": {"from": 1.0, "to": 0.2}, "beta": {"from": 0.0, "to": 0.7}},
    "replay": {"method": "gkd", "student_text": {"share": 0.7, "replay": 10, "max_new_tokens": 5}},
    "adaptive": {
        "method": "distillm",
        "student_text": {"share": 0.3, "growth": 0.5, "tolerance": 0.0, "replay": 10, "max_new_tokens": 5},
        "eval_strategy": "steps",
        "eval_steps": 2,
    },
    "minillm": {"method": "minillm", "max_new_tokens": 5, "method_settings": {"epochs": 4}},
    "logs between checkpoints": {"method": "kd", "logging_steps": 4},
    "logs an epoch": {"method": "kd", "logging_strategy": "epoch"},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_ends_with_the_bits_of_one_that_was_not_stopped(
    tmp_path: Path, tokenizer: Any, name: str
) -> None:
    common: dict[str, Any] = {
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 3,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 2,
        "eval_dataset": lm_toys.instructions(4),
        **RUNS[name],
    }

    def run(folder: str, resume: bool = False, **more: Any) -> tuple[dict[str, torch.Tensor], list[Any]]:
        student, teacher = lm_toys.tiny_model(seed=1, layers=1), lm_toys.frozen(lm_toys.tiny_model(seed=2))
        torch.manual_seed(99 if resume else 0)  # what came before must not matter
        trainer = lm_toys.make_trainer(tmp_path / folder, tokenizer, student, teacher, **common, **more)
        trainer.train(resume_from_checkpoint=resume)
        timed = ("runtime", "per_second", "total_flos", "train_loss")
        log = [
            {key: value for key, value in line.items() if not any(word in key for word in timed)}
            for line in trainer.state.log_history
        ]
        return lm_toys.weights(student), log

    whole, log = run("whole")
    run("parts", callbacks=[StopAt(5)])
    shutil.rmtree(tmp_path / "parts" / "checkpoint-5", ignore_errors=True)  # as if killed between two checkpoints
    resumed, resumed_log = run("parts", resume=True)
    assert lm_toys.largest_difference(whole, resumed) == 0
    assert resumed_log == log
