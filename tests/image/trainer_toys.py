"""Small models and made-up images for the tests of the image trainer."""

import torch
from torch import nn

from abkd.image import DistillationConfig, DistillationTrainer

CLASSES = 4


class Images(torch.utils.data.Dataset):
    """Images (1, 6, 6) of four classes, a bright quarter each; augmented by epoch; counts how often each is read."""

    def __init__(self, count, seed=0, augment=False, classes=CLASSES):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(classes, (count,), generator=generator)
        self.images = 0.6 * torch.rand(count, 1, 6, 6, generator=generator)
        for image, label in zip(self.images, self.labels, strict=True):
            row, column = divmod(int(label) % 4, 2)
            image[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 0.4
        self.augment = augment
        self.epoch = 0
        self.reads = [0] * count

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads[index] += 1
        image = self.images[index]
        if self.augment:
            generator = torch.Generator().manual_seed(1000 * self.epoch + index)
            image = (image + 0.1 * torch.rand(image.shape, generator=generator)).clamp(max=1)
        return {"pixel_values": image, "labels": int(self.labels[index])}


def student(seed=0, *, norm=True, classes=CLASSES, dropout=0.2):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64, classes),
    )


def teacher(seed=7, classes=CLASSES):
    return student(seed, classes=classes).eval().requires_grad_(False)


def config(folder, **options):
    defaults = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return DistillationConfig(**(defaults | options))


def trainer(folder, *, model=None, taught=True, train=None, validation=None, callbacks=None, **options):
    if validation is None and "eval_strategy" not in options:
        options["eval_strategy"] = "no"
    return DistillationTrainer(
        student() if model is None else model,
        teacher() if taught else None,
        config(folder, **options),
        train_dataset=Images(40) if train is None else train,
        eval_dataset=validation,
        callbacks=callbacks,
    )


def same_bits(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
