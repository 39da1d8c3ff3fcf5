"""ROUGE-L of texts written in evaluation: what it is, and the choice of the weights by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_toys
import pytest
import torch
from datasets import Dataset

from abkd.errors import InputError
from abkd.lm.evaluation import Decoding, evaluate

SHORT = {"max_new_tokens": 24}
PLAIN = {"eval_strategy": "steps", "eval_dataset": Dataset.from_dict({"text": ["a b c"]})}
LETTERS = " ".join("abcdefghijklmnopqrstuvwxyz0123456789")  # even random text has some of them


def rows(count: int = 6) -> Any:
    """Validation rows with two references each."""
    found = [{**row, "references": [row["completion"], LETTERS]} for row in lm_toys.instruction_rows(count)]
    return Dataset.from_list(found)


def test_it_is_what_the_evaluation_protocol_measures(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    settings = {"validation_texts": SHORT, "per_device_eval_batch_size": 4, "seed": 7, "eval_strategy": "steps"}
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, eval_dataset=rows(), **settings)
    found = trainer.evaluate()["eval_rouge_l"]
    before = torch.get_rng_state()
    trainer._validation.score()
    assert torch.equal(torch.get_rng_state(), before)
    decoding = Decoding(max_new_tokens=24, no_repeat_ngram_size=0)
    expected = evaluate(
        student, tokenizer, {"rows": rows()}, seeds=[7], decoding=decoding, batch_size=4, progress=False
    )
    assert found == pytest.approx(expected.sets["rows"].summary()["rouge_l"]["mean"])
    assert found > 0
    assert trainer.evaluate()["eval_rouge_l"] == found
    assert "eval_rouge_l" not in trainer.evaluate(rows(3))
    assert "test_rouge_l" not in trainer.evaluate(trainer.eval_dataset, metric_key_prefix="test")
    assert student.training is False


@pytest.mark.parametrize("form", ["completion", "chat", "messages"])
def test_references_are_the_answers_of_the_rows(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, form: str
) -> None:
    data = {
        "completion": lm_toys.instructions(4),
        "messages": lm_toys.dialogues(4),
        "chat": Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": row["prompt"]}],
                    "completion": [{"role": "assistant", "content": row["completion"]}],
                }
                for row in lm_toys.instruction_rows(4)
            ]
        ),
    }[form]
    settings = {"max_length": 256, "validation_texts": {**SHORT, "size": 3}, "eval_strategy": "steps"}
    trainer = lm_toys.make_trainer(
        tmp_path, tokenizer, student, teacher, train_dataset=data, eval_dataset=data, **settings
    )
    total, count = trainer._validation.score()
    assert count == 3
    assert 0 <= total <= 300
    _, references = trainer._validation._pairs[0]
    answer = lm_toys.instruction_rows(2)[1 if form == "messages" else 0]["completion"]
    assert references == [answer]


def test_dialogues_that_end_with_the_user_have_no_reference(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    rows = [{"messages": [*row["messages"], {"role": "user", "content": "thanks"}]} for row in lm_toys.dialogues(4)]
    data = Dataset.from_list(rows)
    settings = {"max_length": 256, "validation_texts": SHORT, "eval_strategy": "steps"}
    with pytest.raises(InputError, match=r"eval_dataset, row 1: expected messages that end with the assistant's"):
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, train_dataset=data, eval_dataset=data, **settings)


def test_the_best_weights_are_those_of_the_highest_score(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    trainer = lm_toys.make_trainer(
        tmp_path,
        tokenizer,
        student,
        teacher,
        select_by="rouge_l",
        validation_texts=SHORT,
        gradient_checkpointing=True,
        eval_strategy="steps",
        eval_steps=1,
        max_steps=4,
        learning_rate=3e-2,
        eval_dataset=rows(),
    )
    trainer.train()
    scores = [line["eval_rouge_l"] for line in trainer.state.log_history if "eval_rouge_l" in line]
    assert len(scores) == 4
    assert len(set(scores)) > 1
    assert trainer.best.value == max(scores)
    assert trainer.best.step == 1 + scores.index(max(scores))
    trainer.model.load_state_dict(trainer.best.weights)
    assert trainer.evaluate()["eval_rouge_l"] == pytest.approx(max(scores))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_texts": {"max_new_token": 4}}, "did you mean 'max_new_tokens'"),
        ({"validation_texts": {"max_new_tokens": 0}}, r"validation_texts\.max_new_tokens: expected"),
        ({"validation_texts": {"size": 1.5}}, r"validation_texts\.size: expected"),
        ({"select_by": "rouge_l"}, "found no columns|without evaluations"),
        ({"validation_texts": {}, **PLAIN}, "found text"),
        ({"select_by": "rouge", **PLAIN}, "forward_kl, loss, nll"),
    ],
)
def test_bad_settings(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, **settings)
