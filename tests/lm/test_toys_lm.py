"""The fixtures are what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_toys
from transformers import AutoModelForCausalLM


def test_tokenizer(tokenizer: Any) -> None:
    assert len(tokenizer) == lm_toys.VOCABULARY
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    text = lm_toys.sentences()[0]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_models_load(student_folder: Path, teacher_folder: Path) -> None:
    for folder, layers in ((student_folder, 1), (teacher_folder, 2)):
        assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == layers


def test_rows(instructions: Any, dialogues: Any) -> None:
    assert len(instructions) == 24
    assert all(row["prompt"] and row["completion"].strip() for row in instructions)
    assert [message["role"] for message in dialogues[0]["messages"]] == ["user", "assistant", "user", "assistant"]
