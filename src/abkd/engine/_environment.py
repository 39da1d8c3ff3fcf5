"""What a result depends on besides its settings: versions and the kind of machine, nothing that names it."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

_PACKAGES = (
    "abkd",
    "torch",
    "transformers",
    "accelerate",
    "trl",
    "peft",
    "tokenizers",
    "torchvision",
    "timm",
    "datasets",
    "rouge-score",
    "gguf",
    "numpy",
    "safetensors",
)


def environment() -> dict[str, Any]:
    """Versions of Python and the packages that matter, the system, the processor, threads, accelerators."""
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerators": _accelerators(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def _accelerators() -> list[str]:
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        return ["mps"]
    return []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
