"""Distillation in a plain PyTorch loop: cross-entropy plus a weighted alpha-beta-divergence.

A teacher learns scikit-learn's digits; a student with 60 times fewer weights sees 60 labelled images, with
and without the teacher. Run: python examples/plain_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from abkd import ABKDLoss


def split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1297 images to train on and 500 to test, pixels in [0, 1]."""
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, targets = torch.tensor(pixels, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
    return images[:-500], targets[:-500], images[-500:], targets[-500:]


def network(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model(images).argmax(-1) == labels).double().mean())


def train(model: nn.Module, images: Tensor, labels: Tensor, teacher: nn.Module | None, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loss_fn = ABKDLoss(alpha=0.8, beta=0.3, temperature=2.0, ce_weight=1.0, kd_weight=8.0)
    for _ in range(steps):
        batch = torch.randint(len(images), (64,))
        logits = model(images[batch])
        if teacher is None:
            loss = nn.functional.cross_entropy(logits, labels[batch])
        else:
            with torch.no_grad():
                teacher_logits = teacher(images[batch])
            loss = loss_fn(logits, teacher_logits, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    torch.manual_seed(0)
    images, labels, test_images, test_labels = split()

    teacher = network(512)
    train(teacher, images, labels, None, steps=600)
    teacher.eval().requires_grad_(False)
    print(f"teacher             {accuracy(teacher, test_images, test_labels):.1%}")

    few_images, few_labels = images[:60], labels[:60]
    for name, source in (("student, labels", None), ("student, distilled", teacher)):
        torch.manual_seed(1)
        student = network(8)
        train(student, few_images, few_labels, source, steps=600)
        print(f"{name:<19} {accuracy(student, test_images, test_labels):.1%}")


if __name__ == "__main__":
    main()
