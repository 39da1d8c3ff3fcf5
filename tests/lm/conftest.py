"""Fixtures of the language-model tests; what makes them is in `lm_toys`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

pytest.importorskip("trl", reason="the language-model room needs trl")

import datasets
import lm_toys
from transformers import AutoTokenizer


@pytest.fixture(scope="session", autouse=True)
def _quiet_datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No progress bars, and every cache file of datasets in a folder that goes away."""
    datasets.disable_progress_bars()
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets-cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved byte-level BPE tokenizer of 320 tokens with a chat template; <eos> 0, <pad> 1."""
    return lm_toys.save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def tokenizer(tokenizer_folder: Path) -> Any:
    """A fresh copy of that tokenizer."""
    return AutoTokenizer.from_pretrained(tokenizer_folder)


@pytest.fixture
def student() -> Any:
    """A random model with 1 layer."""
    return lm_toys.tiny_model(seed=1, layers=1)


@pytest.fixture
def teacher() -> Any:
    """Another random model with 2 layers, frozen."""
    return lm_toys.frozen(lm_toys.tiny_model(seed=2, layers=2))


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A saved student: weights, config and tokenizer."""
    folder = tmp_path_factory.mktemp("student")
    lm_toys.tiny_model(seed=1, layers=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A saved teacher: weights, config and tokenizer."""
    folder = tmp_path_factory.mktemp("teacher")
    lm_toys.tiny_model(seed=2, layers=2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def instructions() -> Any:
    """24 rows of prompt and completion."""
    return lm_toys.instructions()


@pytest.fixture
def dialogues() -> Any:
    """8 conversations of two turns."""
    return lm_toys.dialogues()
