"""Which tokens of which rows count: by each data set's own form, whatever the other sets are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_toys
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from abkd.errors import InputError
from abkd.lm.data import tokenise

PLAIN = [{"text": f"{row['prompt']}{row['completion']}"} for row in lm_toys.instruction_rows(8)]
UNMARKED = lm_toys.CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
FORMS: dict[str, Any] = {
    "instructions": lm_toys.instructions(8),
    "dialogues": lm_toys.dialogues(4),
    "plain text": Dataset.from_list(PLAIN),
}


def responses(rows: Any) -> list[list[int]]:
    """The tokens that count in each row."""
    return [[label for label in row["labels"] if label != -100] for row in rows]


@pytest.mark.parametrize("template", [lm_toys.CHAT_TEMPLATE, UNMARKED], ids=["marks", "no marks"])
@pytest.mark.parametrize("trained", [*FORMS, "seqkd", "seqkd on dialogues"])
def test_responses_count_whatever_is_trained_on(
    tmp_path: Path, student: Any, teacher: Any, trained: str, template: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_toys.save_tokenizer(tmp_path / "own", chat_template=template))
    form = trained.removeprefix("seqkd on ").replace("seqkd", "instructions")
    method = {"method": "seqkd", "max_new_tokens": 4} if trained.startswith("seqkd") else {"method": "kd"}
    settings = {**method, "max_length": 256, "train_dataset": FORMS[form]}
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, eval_dataset=FORMS, **settings)
    for name, rows in FORMS.items():
        expected = responses(tokenise(rows, tokenizer, max_length=256))
        assert responses(trainer.eval_dataset[name]) == expected
        assert all(expected)
        seen: list[int] = []
        trainer.count_items = lambda batch, seen=seen: seen.append(int((batch["labels"][:, 1:] != -100).sum())) or 1
        trainer.evaluate(rows)
        del trainer.count_items
        assert sum(seen) == sum(len(row) for row in expected) - (len(PLAIN) if name == "plain text" else 0)


def test_prompts_count_where_that_is_asked_for(tmp_path: Path, tokenizer: Any, student: Any, teacher: Any) -> None:
    settings = {"completion_only_loss": False, "train_dataset": FORMS["instructions"], "max_length": 256}
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, teacher, method="kd", **settings)
    rows = trainer.train_dataset
    assert responses(rows) == list(rows["input_ids"])
    assert responses(tokenise(FORMS["instructions"], tokenizer, max_length=256, prompts=True)) == responses(rows)


@pytest.mark.parametrize("template", [lm_toys.CHAT_TEMPLATE, UNMARKED], ids=["marks", "no marks"])
def test_of_dialogues_the_answers_alone_count_whatever_the_template(
    tmp_path: Path, student: Any, teacher: Any, template: str
) -> None:
    own = AutoTokenizer.from_pretrained(lm_toys.save_tokenizer(tmp_path / "own", chat_template=template))
    settings = {"completion_only_loss": False, "train_dataset": FORMS["dialogues"], "max_length": 256}
    trainer = lm_toys.make_trainer(tmp_path, own, student, teacher, method="kd", **settings)
    rows = trainer.train_dataset
    assert all(0 < len(found) < len(ids) for found, ids in zip(responses(rows), rows["input_ids"], strict=True))


def test_texts_of_the_teacher_end_with_the_end_that_is_set(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    end = tokenizer.convert_tokens_to_ids("<bot>")
    assert end != tokenizer.eos_token_id
    own = AutoTokenizer.from_pretrained(lm_toys.save_tokenizer(tmp_path / "own"))
    rows = FORMS["instructions"].add_column("completion_ended", [True] * 4 + [False] * 4)
    trainer = lm_toys.make_trainer(
        tmp_path, own, student, teacher, method="kd", eos_token="<bot>", train_dataset=rows, max_length=256
    )
    assert [row[-1] == end for row in responses(trainer.train_dataset)] == [True] * 4 + [False] * 4


@pytest.mark.parametrize("packing", [False, True])
def test_rows_without_a_response_are_left_out(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, packing: bool, capfd: Any
) -> None:
    rows = lm_toys.instruction_rows(6)
    rows[0] = {"prompt": "long " * 300, "completion": "never read"}
    settings = {"packing": packing, "max_length": 128, "per_device_train_batch_size": 1, "method": "kd"}
    trainer = lm_toys.make_trainer(
        tmp_path, tokenizer, student, teacher, train_dataset=Dataset.from_list(rows), **settings
    )
    assert all(responses(trainer.train_dataset))
    assert ("1 of 6 rows left out, their prompts fill max_length=128" in capfd.readouterr().err) != packing
    trainer.train()
    with pytest.raises(InputError, match="none of 1 rows has a response left"):
        lm_toys.make_trainer(
            tmp_path, tokenizer, student, teacher, train_dataset=Dataset.from_list(rows[:1]), **settings
        )


def test_tokenised_rows_without_a_label_are_left_out(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any
) -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, -100, -100]}, {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}]
    settings = {"max_length": None, "per_device_train_batch_size": 1, "method": "kd"}
    trainer = lm_toys.make_trainer(
        tmp_path, tokenizer, student, teacher, train_dataset=Dataset.from_list(rows), **settings
    )
    assert responses(trainer.train_dataset) == [[6, 7]]
    trainer.train()


def test_columns_of_other_forms_do_not_change_what_counts(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, capsys: Any
) -> None:
    row = {"prompt": "one two", "completion": " three"}
    said = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    for rows, same, left_out in (
        ({**row, "text": "four"}, row, "text"),
        ({**row, "messages": said}, row, "messages"),
        ({"prompt": "one", "prompt_id": "1", "messages": said}, {"messages": said}, "prompt"),
    ):
        found, wanted = (
            lm_toys.make_trainer(
                tmp_path, tokenizer, student, teacher, method="kd", train_dataset=Dataset.from_list([one] * 8)
            ).train_dataset
            for one in (rows, same)
        )
        assert responses(found) == responses(wanted)
        assert responses(found)[0][-1] == tokenizer.eos_token_id
        assert f"{left_out} left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x", "completion": [{"role": "assistant", "content": "y"}]}, "a string and completion a list"),
        ({"input_ids": [50, 60, 70], "labels": [-100, 60]}, "3 input_ids and 2 labels"),
        ({"input_ids": [50, 60, 70], "labels": [-100, -100, 71]}, r"labels\[2\] is 71 and input_ids\[2\] 70"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(
    tmp_path: Path, tokenizer: Any, student: Any, teacher: Any, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        lm_toys.make_trainer(
            tmp_path, tokenizer, student, teacher, method="kd", train_dataset=Dataset.from_list([row] * 4)
        )
