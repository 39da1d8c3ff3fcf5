"""A timm model as the student: any classifier of timm, torchvision or transformers can be one, by name.

Teacher and student take images of different sizes; each resizes and normalises the same pixels itself. No
weights are downloaded here; pass pretrained=True to start from published ones.
Run: python examples/timm_student.py
"""

import tempfile

import torch

from abkd.image import DistillationConfig, DistillationTrainer, evaluate_models
from abkd.image.data import load_data
from abkd.image.models import build_model


def main() -> None:
    torch.manual_seed(0)
    data = load_data("digits", train_size=500)

    with tempfile.TemporaryDirectory() as folder:
        teacher = build_model(
            "cnn", num_classes=10, channels=1, widths=(16, 32), hidden=64, mean=data.mean, std=data.std
        )
        args = DistillationConfig(output_dir=f"{folder}/teacher", method="sft", num_train_epochs=5, disable_tqdm=True)
        DistillationTrainer(teacher, None, args, train_dataset=data.train, eval_dataset=data.validation).train()
        teacher.eval().requires_grad_(False)

        student = build_model("timm:test_resnet", num_classes=10, channels=1, input_size=32)
        args = DistillationConfig(
            output_dir=f"{folder}/student",
            method="abkd",
            optim="adamw_torch",
            learning_rate=3e-3,
            num_train_epochs=4,
            per_device_train_batch_size=25,
            disable_tqdm=True,
        )
        trainer = DistillationTrainer(student, teacher, args, train_dataset=data.train, eval_dataset=data.validation)
        trainer.train()

    for name, metrics in evaluate_models({"student": student}, data.test, teacher=trainer.teacher).items():
        print(f"{name}: accuracy {metrics['accuracy']:.1%}, nll {metrics['nll']:.3f}")


if __name__ == "__main__":
    main()
