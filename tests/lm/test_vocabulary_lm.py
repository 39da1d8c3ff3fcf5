"""Padded vocabularies are cut to what is shared; tokenizers that differ are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_toys
import pytest
import torch
from datasets import Dataset

from abkd import AlphaBeta, divergence_loss
from abkd.errors import InputError
from abkd.lm import shared_vocabulary


class Words:
    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}


ABC = Words("a", "b", "c")


def test_sizes() -> None:
    assert shared_vocabulary(ABC, ABC, 3, 3).size == 3
    assert shared_vocabulary(ABC, ABC, 3, 3).note is None
    padded = shared_vocabulary(ABC, None, 4, 8)
    assert padded.size == 3
    assert "4" in (padded.note or "")
    assert "8" in (padded.note or "")
    longer = shared_vocabulary(ABC, Words("a", "b", "c", "d"), 3, 4)
    assert longer.size == 3
    assert longer.note is not None


def test_refusals() -> None:
    with pytest.raises(InputError, match="seqkd"):
        shared_vocabulary(ABC, Words("a", "x", "c"), 3, 3)
    with pytest.raises(InputError, match="resize_token_embeddings"):
        shared_vocabulary(ABC, ABC, 2, 3)


def test_padded_models_are_compared_on_the_real_tokens(tmp_path: Path, tokenizer: Any, capsys: Any) -> None:
    student = lm_toys.tiny_model(seed=1, layers=1, vocabulary=384)
    teacher = lm_toys.tiny_model(seed=2, vocabulary=352)
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher)
    assert capsys.readouterr().err.count("padded") == 1
    batch = lm_toys.batch_of(trainer)
    loss, _ = trainer.mean_loss(trainer.model, batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = [model(**inputs).logits[:, :-1, :320] for model in (student, teacher)]
    mask = batch["labels"][:, 1:] != -100
    torch.testing.assert_close(loss, divergence_loss(*logits, AlphaBeta(0.2, 0.7), mask=mask), rtol=1e-5, atol=1e-7)
    loss.backward()
    assert float(student.get_output_embeddings().weight.grad[320:].abs().max()) == 0


def test_a_token_that_one_model_alone_knows_is_named(tmp_path: Path, tokenizer: Any, teacher_folder: Path) -> None:
    tokenizer.add_tokens(["<mine>"])
    student = lm_toys.tiny_model(seed=1, layers=1, vocabulary=321)
    rows = Dataset.from_list([{"prompt": "a", "completion": "b<mine>"}, {"prompt": "a", "completion": "b"}])
    for name in ("train_dataset", "eval_dataset"):
        with pytest.raises(InputError, match=rf"{name}: token '<mine>' \(id 320\) is not among the 320"):
            lm_toys.make_trainer(tmp_path, tokenizer, student, str(teacher_folder), **{name: rows})
    given = {"train_dataset": rows.select([1])}
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, str(teacher_folder), **given)
    assert trainer.vocabulary == 320


def test_another_tokenizer_is_refused(tmp_path: Path, tokenizer: Any, student: Any, teacher_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    other = tmp_path / "other"
    AutoModelForCausalLM.from_pretrained(teacher_folder).save_pretrained(other)
    lm_toys.save_tokenizer(other)
    saved = json.loads((other / "tokenizer.json").read_text())
    vocabulary = saved["model"]["vocab"]
    first, second = (token for token, number in vocabulary.items() if number in (100, 101))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match="seqkd"):
        lm_toys.make_trainer(tmp_path, tokenizer, student, str(other))
