"""Plain text beside the data set: how it is cut and drawn, and its own loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_toys
import pytest
import torch
from datasets import Dataset, load_dataset

from abkd.errors import InputError
from abkd.lm._batch import PRETRAIN
from abkd.lm._plain_text import PlainText


def test_plain_text_lies_on_the_disk_and_is_cut_once(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "plain.jsonl"
    file.write_text("\n".join(json.dumps({"text": text, "number": 1}) for text in [*lm_toys.sentences()[:40], ""]))
    rows = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    plain = PlainText(rows, tokenizer, "text", 16, 2, 0)
    whole: list[int] = []
    for text in lm_toys.sentences()[:40]:
        whole += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert [token for piece in plain.pieces["input_ids"] for token in piece] == whole[: len(whole) // 16 * 16]
    files = [entry["filename"] for entry in plain.pieces.cache_files]
    assert files
    assert [entry["filename"] for entry in PlainText(rows, tokenizer, "text", 16, 2, 0).pieces.cache_files] == files
    turn = -(-len(plain.pieces) // 2)
    drawn = [tuple(row) for number in range(turn) for row in plain.batch(number, "cpu")["input_ids"].tolist()]
    assert len(set(drawn[: len(plain.pieces)])) == len({tuple(piece) for piece in plain.pieces["input_ids"]})
    short = PlainText(rows.select(range(1)), tokenizer, "text", 4096, 1, 0)
    assert short.batch(3, "cpu")["input_ids"][0].tolist() == whole[: whole.index(tokenizer.eos_token_id) + 1]
    for bad, said in (
        (rows.select([40]), "holds no text"),
        (rows.to_iterable_dataset(), "without streaming"),
        (rows.select_columns(["number"]), "expected a column 'text' of plain text; found number"),
    ):
        with pytest.raises(InputError, match=said):
            PlainText(bad, tokenizer, "text", 16, 2, 0)


def test_plain_text_has_its_own_loss(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    plain = Dataset.from_dict({"text": lm_toys.sentences()[200:230]})
    trainer = lm_toys.make_trainer(
        tmp_path,
        tokenizer,
        student,
        teacher,
        pretrain_dataset=plain,
        pretrain_weight=0.5,
        max_length=32,
        gradient_accumulation_steps=2,
        method="imitkd",
        student_text={"max_new_tokens": 6},
    )
    trainer.state.max_steps = 10
    batches = trainer.prepare_batches([lm_toys.batch_of(trainer), lm_toys.batch_of(trainer)])
    assert not torch.equal(batches[0][PRETRAIN]["input_ids"], batches[1][PRETRAIN]["input_ids"])
    inputs = batches[0]
    bare = {name: value for name, value in inputs.items() if name != PRETRAIN}
    added = trainer.compute_loss(trainer.model, inputs) - trainer.compute_loss(trainer.model, bare)
    tokens = inputs[PRETRAIN]["input_ids"]
    logits = trainer.model(tokens).logits[:, :-1]
    ce = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(added, 0.5 * ce / 2, rtol=1e-4, atol=1e-5)
    read = trainer._measures.clock.state()["since"]
    trainer.training_step(trainer.model, inputs)
    assert trainer._measures.clock.state()["since"] - read == int(inputs["attention_mask"].sum()) + tokens.numel()
    trainer.train()
