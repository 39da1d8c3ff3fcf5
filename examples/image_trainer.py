"""The image trainer on transformers' Trainer: a small CNN distilled on scikit-learn's digits.

Everything that transformers' Trainer offers is there: mixed precision, accumulation, several devices, resuming.
Run: python examples/image_trainer.py
"""

import tempfile

import torch

from abkd.image import DistillationConfig, DistillationTrainer, evaluate_models
from abkd.image.data import load_data
from abkd.image.models import build_model


def main() -> None:
    torch.manual_seed(0)
    data = load_data("digits", train_size=400)
    norm = {"mean": data.mean, "std": data.std}

    with tempfile.TemporaryDirectory() as folder:
        teacher = build_model("cnn", num_classes=10, channels=1, widths=(16, 32), hidden=64, **norm)
        args = DistillationConfig(output_dir=f"{folder}/teacher", method="sft", num_train_epochs=8, disable_tqdm=True)
        DistillationTrainer(teacher, None, args, train_dataset=data.train, eval_dataset=data.validation).train()
        teacher.eval().requires_grad_(False)

        student = build_model("cnn", num_classes=10, channels=1, widths=(4, 8), hidden=16, **norm)
        args = DistillationConfig(
            output_dir=f"{folder}/student",
            method="abkd",
            alpha=0.9,
            beta=0.3,
            learning_rate=0.01,
            num_train_epochs=12,
            per_device_train_batch_size=32,
            disable_tqdm=True,
        )
        trainer = DistillationTrainer(student, teacher, args, train_dataset=data.train, eval_dataset=data.validation)
        trainer.train()

    print(f"best epoch on the validation split: {trainer.best.epoch:.0f}, accuracy {trainer.best.value:.1%}")
    student.load_state_dict(trainer.best.weights)
    tested = evaluate_models({"student": student}, data.test, teacher=trainer.teacher)
    for name, metrics in tested.items():
        print(name, {key: round(value, 4) for key, value in metrics.items()})


if __name__ == "__main__":
    main()
