"""The loss in a Lightning module: nothing else of this library is needed there.

Run: python examples/lightning_module.py
"""

import logging
import warnings

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from abkd import ABKDLoss


class Distilled(L.LightningModule):
    """A student that learns from labels and a frozen teacher."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        # In a tuple, so that Lightning neither trains it, nor puts it in train mode, nor saves it.
        self._teacher = (teacher.eval().requires_grad_(False),)
        self.loss_fn = ABKDLoss(alpha=0.8, beta=0.3, temperature=2.0, kd_weight=8.0)

    def setup(self, stage: str) -> None:
        self._teacher[0].to(self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        with torch.no_grad():
            teacher_logits = self._teacher[0](images)
        return self.loss_fn(self.student(images), teacher_logits, labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.student(images).argmax(-1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.student.parameters(), lr=3e-3)


class Supervised(Distilled):
    """The same without a teacher, which is how the teacher itself is trained."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__(student, nn.Identity())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.student(images), labels)


def network(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def fit(module: L.LightningModule, train: DataLoader, held_out: DataLoader, epochs: int) -> float:
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=epochs,
    )
    trainer.fit(module, train, held_out)
    return float(trainer.callback_metrics["accuracy"])


def main() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*treespec.*", category=FutureWarning)
    L.seed_everything(0, verbose=False)
    pixels, labels = load_digits(return_X_y=True)
    everything = TensorDataset(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels))
    train_set, test_set = torch.utils.data.random_split(everything, [1297, 500])
    few = torch.utils.data.Subset(train_set, range(100))
    held_out = DataLoader(test_set, batch_size=500)

    teacher = network(256)
    score = fit(Supervised(teacher), DataLoader(train_set, batch_size=64, shuffle=True), held_out, 10)
    print(f"teacher  {score:.1%}")
    student = network(8)
    score = fit(Distilled(student, teacher), DataLoader(few, batch_size=20, shuffle=True), held_out, 40)
    print(f"student  {score:.1%}, from {len(few)} images")


if __name__ == "__main__":
    main()
