"""What a trainer asks of its data sets, whatever is in them."""

from __future__ import annotations

from typing import Any

from abkd.errors import InputError


def check_filled(name: str, data: Any) -> None:
    """A data set has a sample, where its size is known.

    Raises:
        InputError: it is empty.
    """
    if data is not None and hasattr(data, "__len__") and len(data) == 0:
        raise InputError(f"{name} is empty: expected at least one sample")


def check_batches(args: Any, data: Any) -> None:
    """Training data make a batch, and learn of each epoch.

    Raises:
        InputError: they are fewer than a batch where incomplete ones are dropped, or workers keep copies of them.
    """
    if args.dataloader_drop_last and data is not None and hasattr(data, "__len__"):
        batch = args.per_device_train_batch_size * max(args.world_size, 1)
        if len(data) < batch:
            raise InputError(
                f"train_dataset has {len(data)} samples, fewer than one batch of {batch}, and "
                "dataloader_drop_last drops incomplete batches: lower per_device_train_batch_size"
            )
    if args.dataloader_persistent_workers and args.dataloader_num_workers > 0 and hasattr(data, "set_epoch"):
        raise InputError(
            "dataloader_persistent_workers keeps copies of the data set that never learn of a new epoch; "
            "leave it off for data whose augmentation depends on the epoch"
        )
