"""What a resumed run needs besides transformers' checkpoint, and whether a checkpoint fits the model."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from abkd.errors import InputError
from abkd.storage import atomic_write_json, newest_complete, read_json, verify_manifest

_PROGRESS_FILE = "progress.json"
_WEIGHTS_FILE = "model.safetensors"


def write_progress(folder: Path, progress: dict[str, Any]) -> None:
    """Write what goes beside transformers' state in a checkpoint: plain data."""
    atomic_write_json(folder / _PROGRESS_FILE, progress)


def read_progress(folder: Path) -> dict[str, Any] | None:
    """What `write_progress` wrote; None for a checkpoint of another trainer."""
    path = folder / _PROGRESS_FILE
    return read_json(path) if path.is_file() else None


def checkpoint_to_resume(request: str | bool | None, output_dir: str) -> Path | None:
    """The checkpoint that `train(resume_from_checkpoint=request)` means: verified, or None for a fresh start.

    Raises:
        InputError: `True`, but no complete checkpoint lies in `output_dir`.
        CorruptFileError: the named checkpoint is not whole.
    """
    if request is None or request is False:
        return None
    if request is True:
        found = newest_complete(output_dir)
        if found is None:
            raise InputError(f"{output_dir}: no complete checkpoint to resume from; start without resuming")
        return found
    folder = Path(request)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a checkpoint folder to resume from")
    verify_manifest(folder)
    return folder


def check_fits(folder: Path, model: nn.Module) -> None:
    """Compare the names and shapes in a checkpoint with those of the model that is to take them.

    Raises:
        InputError: they differ: the checkpoint is of another model.
    """
    path = folder / _WEIGHTS_FILE
    if not path.is_file():
        return
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    expected = {name: tuple(tensor.shape) for name, tensor in _saved_once(model, stored).items()}
    differing = sorted(name for name in {*stored, *expected} if stored.get(name) != expected.get(name))
    if differing:
        name = differing[0]
        raise InputError(
            f"{path}: a checkpoint of another model: {name!r} has shape {stored.get(name, 'none')} there "
            f"and {expected.get(name, 'none')} in this model ({len(differing)} tensors differ); "
            "resume with the model that the run was started with"
        )


def _saved_once(model: nn.Module, stored: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a model, without those that were saved under the name of one they are tied to."""
    tensors = model.state_dict()
    places = {tensor.data_ptr() for name, tensor in tensors.items() if name in stored}
    return {name: tensor for name, tensor in tensors.items() if name in stored or tensor.data_ptr() not in places}
