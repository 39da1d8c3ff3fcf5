"""Instruction data: the layouts that are read, the template, prompts that are too long, and tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import lm_toys
import pytest

from abkd.errors import CorruptFileError, InputError
from abkd.lm.data import (
    TEST_SETS,
    Instruction,
    alpaca_prompt,
    fit_prompts,
    instruction_names,
    load_instructions,
    prompt_ids,
    read_alpaca,
    tokenise,
)
from abkd.lm.data._where import carried_names

PLAIN = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nSay hello.\n\n### Response:\n"
)
PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n"
    "### Instruction:\nTranslate.\n\n### Input:\nBonjour\n\n### Response:\n"
)


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_first_reference_that_says_something_is_trained_on(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"prompt": "a", "output": ["", "x"]}, {"prompt": "b", "output": "y"})
    rows = load_instructions(str(file), template="plain")
    assert list(rows["completion"]) == ["x", "y"]


# The template.


def test_template_of_the_published_runs() -> None:
    assert alpaca_prompt("Say hello.") == PLAIN
    assert alpaca_prompt("Translate.", "Bonjour") == PAIRED
    assert read_alpaca(PLAIN) == Instruction("Say hello.")
    assert read_alpaca(PAIRED) == Instruction("Translate.", "Bonjour")
    assert read_alpaca(PLAIN.removesuffix("\n")) == Instruction("Say hello.")
    assert read_alpaca("Say hello.") is None
    assert alpaca_prompt("{instruction} {x}", "{y}") == PAIRED.replace("Translate.", "{instruction} {x}").replace(
        "Bonjour", "{y}"
    )


# Layouts.


def test_self_instruct(tmp_path: Path) -> None:
    file = write(
        tmp_path / "user_oriented.jsonl",
        {"id": 0, "motivation_app": "x", "instruction": "Say hello.", "instances": [{"input": "", "output": "Hello"}]},
        {
            "id": 1,
            "instruction": "Translate.",
            "instances": [{"input": "Bonjour", "output": "Hi"}, {"input": "Oui", "output": "Yes"}],
        },
    )
    data = load_instructions(file, "test")
    assert list(data["prompt"])[:2] == [PLAIN, PAIRED]
    assert list(data["completion"]) == ["Hello", "Hi", "Yes"]
    assert list(data["references"]) == [["Hello"], ["Hi"], ["Yes"]]
    assert list(data["input"]) == ["", "Bonjour", "Oui"]


def test_vicuna_with_one_or_two_files_of_answers(tmp_path: Path) -> None:
    questions = write(
        tmp_path / "question.jsonl",
        {"question_id": 1, "text": "Say hello.", "category": "generic"},
        {"question_id": 2, "turns": ["And?", "more"], "category": "generic"},
    )
    first = write(
        tmp_path / "answer" / "a.jsonl",
        {"answer_id": "x", "model_id": "m", "question_id": 2, "text": "Two"},
        {"answer_id": "y", "model_id": "m", "question_id": 1, "text": "One"},
    )
    data = load_instructions(questions, "test", answers=first)
    assert list(data["prompt"]) == [PLAIN, alpaca_prompt("And?")]
    assert list(data["references"]) == [["One"], ["Two"]]
    second = write(
        tmp_path / "answer" / "b.jsonl",
        {"answer_id": "z", "question_id": 1, "choices": [{"turns": ["Uno"]}]},
        {"answer_id": "w", "question_id": 2, "choices": [{"turns": ["Due"]}]},
    )
    assert list(load_instructions(questions, answers=[first, second])["references"]) == [["One", "Uno"], ["Two", "Due"]]
    assert list(load_instructions(tmp_path, "test")["references"]) == [["One", "Uno"], ["Two", "Due"]]
    prompts = load_instructions(questions)
    assert prompts.column_names == ["prompt", "instruction", "input"]
    with pytest.raises(InputError, match="question 2 has no answer"):
        load_instructions(questions, answers=write(tmp_path / "c.jsonl", {"question_id": 1, "text": "One"}))
    with pytest.raises(InputError, match="1 answers belong to no question, 9"):
        load_instructions(questions, answers=[first, write(tmp_path / "d.jsonl", {"question_id": 9, "text": "x"})])


def test_minillm_folder(tmp_path: Path, capfd: Any) -> None:
    row = {"instruction": "Say hello.", "input": "", "output": ["Hello", "Hi"], "prompt": PLAIN.replace("\n", "<n>")}
    write(tmp_path / "vicuna" / "valid.jsonl", row)
    data = load_instructions("vicuna", "test", root=tmp_path)
    assert data[0]["prompt"] == PLAIN
    assert data[0]["references"] == ["Hello", "Hi"]
    long = {**row, "output": "one two three four five six seven eight nine ten eleven"}
    write(tmp_path / "sinst" / "11_" / "valid.jsonl", row, long)
    write(tmp_path / "uinst" / "valid.jsonl", row, *[long] * 3)
    assert len(load_instructions("s-ni", "test", root=tmp_path)) == 2
    with pytest.raises(InputError, match=r"expected MiniLLM's data, with a folder uinst/11_ for unni"):
        load_instructions("unni", "test", root=tmp_path)
    write(tmp_path / "self-inst" / "valid.jsonl", {"prompt": "free text<n>here", "output": "x"})
    only_prompt = load_instructions("self-instruct", "test", root=tmp_path)
    assert only_prompt[0]["prompt"] == "free text\nhere"
    assert "1 rows, and the published Self-Instruct has 252" in capfd.readouterr().err
    own = load_instructions(write(tmp_path / "own.jsonl", {"prompt": "the first <n> primes", "response": "2"}))
    assert own[0]["prompt"] == "the first <n> primes"
    with pytest.raises(InputError, match="it has no 'train' split"):
        load_instructions("vicuna", "train", root=tmp_path)


def tasks(what: str, count: int) -> list[dict[str, str]]:
    return [{"instruction": f"{what} {i}", "context": "", "response": f"Answer {i}"} for i in range(count)]


def dolly(folder: Path, *, raw: int = 1003, tested: int = 600) -> Path:
    """MiniLLM's layout: raw.jsonl and, of test rows, valid.jsonl; each with the same text in another form beside it."""
    for name, rows in (("raw", tasks("Raw", raw)), ("valid", tasks("Tested", tested))):
        write(folder / f"{name}.jsonl", *rows)
        (folder / f"{name}.txt").write_text("\n".join(row["instruction"] for row in rows))
    return folder


def splits(name: str | Path, **options: Any) -> dict[str, list[str]]:
    return {
        split: list(load_instructions(name, split, **options)["instruction"])
        for split in ("train", "validation", "test")
    }


def published_splits(found: dict[str, list[str]], tested: int) -> None:
    """Train and validation are parts of raw.jsonl, and nothing that is tested is in either."""
    assert found["train"] == ["Raw 1000", "Raw 1001", "Raw 1002"]
    assert found["validation"] == [f"Raw {i}" for i in range(1000)]
    assert found["test"] == [f"Tested {i}" for i in range(tested)]
    assert not set(found["validation"]) & {*found["train"], *found["test"]}
    assert not set(found["train"]) & set(found["test"])


def test_dolly_is_chosen_on_other_rows_than_it_is_tested_on(tmp_path: Path) -> None:
    dolly(tmp_path / "dolly")
    assert TEST_SETS["dolly"].size == 500
    published_splits(splits("dolly", root=tmp_path), 500)
    published_splits(splits(tmp_path / "dolly"), 600)
    (tmp_path / "dolly" / "raw.jsonl").unlink()
    for split in ("train", "validation"):
        with pytest.raises(InputError, match=r"raw\.jsonl: expected a file of instructions, found none"):
            load_instructions("dolly", split, root=tmp_path)
    assert len(load_instructions("dolly", "test", root=tmp_path)) == 500


def test_dolly_of_the_hub_is_read_from_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = datasets.load_dataset

    def load(name: str, **which: Any) -> Any:
        asked.append((name, which["data_files"]["rows"]))
        return real(str(tmp_path / name), cache_dir=str(tmp_path / "cache"), **which)

    monkeypatch.setattr(datasets, "load_dataset", load)
    dolly(tmp_path / "MiniLLM" / "dolly")
    for name in ("dolly", "MiniLLM/dolly"):
        published_splits(splits(name), 500)
    files = ["raw.jsonl", "raw.jsonl", "valid.jsonl"]
    assert asked == [("MiniLLM/dolly", file) for file in files * 2]
    row = {"instruction": "Say hello.", "input": "", "output": "Hello"}
    for repository in ("sinst", "uinst"):
        write(tmp_path / "MiniLLM" / repository / "11_" / "valid.jsonl", row)
        write(tmp_path / "MiniLLM" / repository / "valid.jsonl", row, row)
    for name in ("s-ni", "unni"):
        assert len(load_instructions(name, "test")) == 1
    assert asked[-2:] == [("MiniLLM/sinst", "11_/valid.jsonl"), ("MiniLLM/uinst", "11_/valid.jsonl")]


def test_a_folder_of_raw_rows_alone(tmp_path: Path) -> None:
    write(tmp_path / "raw.jsonl", *tasks("Raw", 1003))
    assert len(load_instructions(tmp_path, "validation")) == 1000
    assert len(load_instructions(tmp_path)) == 3
    with pytest.raises(InputError, match="no file for the split 'test'"):
        load_instructions(tmp_path, "test")
    write(tmp_path / "dev.jsonl", *tasks("Own", 2))
    assert list(load_instructions(tmp_path, "validation")["instruction"]) == ["Own 0", "Own 1"]
    write(tmp_path / "raw.jsonl", *tasks("Raw", 10))
    with pytest.raises(InputError, match="none is left for 'train'"):
        load_instructions(tmp_path)


def test_prompt_completion_messages_json_and_parquet(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"prompt": "1 + 1 =", "completion": " 2"}, {"prompt": "a<n>", "completion": "b"})
    data = load_instructions(file)
    assert list(data["prompt"]) == ["1 + 1 =", "a<n>"]
    assert list(data["completion"]) == [" 2", "b"]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert load_instructions(write(tmp_path / "b.jsonl", {"messages": turns}))[0] == {"messages": turns}
    shared = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    assert load_instructions(write(tmp_path / "c.jsonl", {"conversations": shared}))[0] == {"messages": turns}
    both = load_instructions(write(tmp_path / "d.jsonl", {"prompt": turns[:1], "completion": turns[1:]}))[0]
    assert (both["prompt"], both["completion"], both["references"]) == (turns[:1], turns[1:], ["Hello"])
    (tmp_path / "e.json").write_text(json.dumps([{"prompt": "x", "response": "y"}]))
    assert load_instructions(tmp_path / "e.json")[0]["completion"] == "y"
    datasets.Dataset.from_list([{"prompt": "x", "completion": "z"}]).to_parquet(tmp_path / "f.parquet")
    assert load_instructions(tmp_path / "f.parquet")[0]["completion"] == "z"
    saved = datasets.DatasetDict({"train": data, "test": data.select([1])})
    saved.save_to_disk(tmp_path / "saved")
    assert len(load_instructions(tmp_path / "saved")) == 2
    assert load_instructions(tmp_path / "saved", "test")[0]["completion"] == "b"
    assert len(load_instructions(file, size=1)) == 1


def test_chat_and_plain_templates(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "a.jsonl", {"instruction": "Translate.", "input": "Bonjour", "output": "Hi"})
    row = load_instructions(file, template="chat", tokenizer=tokenizer)[0]
    assert row["prompt"] == [{"role": "user", "content": "Translate.\n\nBonjour"}]
    assert row["completion"] == [{"role": "assistant", "content": "Hi"}]
    assert load_instructions(file, template="plain")[0]["prompt"] == "Translate.\n\nBonjour"
    told = write(tmp_path / "b.jsonl", {"prompt": PAIRED, "output": "Hi"})
    assert load_instructions(told, template="chat")[0]["prompt"] == row["prompt"]
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="this one has none: use template 'alpaca'"):
        load_instructions(file, template="chat", tokenizer=tokenizer)


def test_hub_names_go_through_datasets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []
    rows = datasets.Dataset.from_list([{"instruction": "Say hello.", "input": "", "output": "Hello"}])

    def load(name: str, *, data_files: Any = None, split: str | None = None) -> Any:
        asked.append(name if data_files is None else f"{name}/{data_files[split]}")
        if name == "no/where":
            raise OSError("offline")
        return datasets.DatasetDict({"train": rows}) if split is None else rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    for name in TEST_SETS:
        assert load_instructions(name, "test")[0]["prompt"] == PLAIN
    assert load_instructions("some/one")[0]["completion"] == "Hello"
    assert asked == [
        "MiniLLM/dolly/valid.jsonl",
        "MiniLLM/self-inst/valid.jsonl",
        "MiniLLM/Vicuna/valid.jsonl",
        "MiniLLM/sinst/11_/valid.jsonl",
        "MiniLLM/uinst/11_/valid.jsonl",
        "some/one",
    ]
    assert "only the split" not in capsys.readouterr().err
    assert len(load_instructions("some/one", "test")) == 1
    assert "some/one: has only the split train, which is taken as test rows" in capsys.readouterr().err
    with pytest.raises(InputError, match="no split for 'validation'; it has train"):
        load_instructions("some/one", "validation")
    with pytest.raises(InputError, match=r"no/where: cannot be loaded from the hub \(offline\)"):
        load_instructions("no/where")


def test_what_the_package_carries_can_be_loaded() -> None:
    assert set(instruction_names()) == {*TEST_SETS, *carried_names()}
    for name in carried_names():
        data = load_instructions(name)
        assert len(data) > 0
        assert len(set(data["prompt"])) == len(data)


# Faults.


def test_bad_files_are_named_with_what_was_found(tmp_path: Path) -> None:
    def refused(match: str, *rows: Any, kind: type[Exception] = InputError, **options: Any) -> None:
        with pytest.raises(kind, match=match):
            load_instructions(write(tmp_path / "x.jsonl", *rows), **options)

    refused(r"row 2: expected instruction .*found the fields answer_text", {"prompt": "a"}, {"answer_text": 1})
    refused(r"row 1: expected text in instruction, got int", {"instruction": 3, "output": "x"})
    refused(r"row 1: expected a text or a list of texts in output, got dict", {"prompt": "a", "output": {"a": 1}})
    refused(r"row 1: expected a list of instances", {"instruction": "a", "instances": "b"})
    refused(r"row 1: expected instances with input and output", {"instruction": "a", "instances": ["b"]})
    refused(r"row 1: expected role and content .* found the fields text", {"messages": [{"text": "x"}]})
    refused(r"row 1: expected a list of messages", {"messages": "x"})
    refused(r"row 1: messages is empty", {"messages": []})
    refused(r"2 of 3 responses are empty \(rows 1, 3\)", *({"prompt": "a", "output": text} for text in (" ", "x", "")))
    refused(r"no rows with a response", {"prompt": "a", "output": ""}, drop_empty=True)
    refused(r"1 of 2 rows have no response .*row 2 is the first", {"prompt": "a", "output": "x"}, {"prompt": "a"})
    refused(r"row 1 is the first", {"prompt": "a", "output": None}, {"prompt": "a", "output": "x"})
    turn = {"role": "user", "content": "x"}
    refused(r"row 1: no turn of the assistant .* its roles are user", {"messages": [turn]})
    refused(r"row 1: unknown role 'asistant' .*'assistant'", {"messages": [turn, {**turn, "role": "asistant"}]})
    refused(r"row 1: expected text as the content .* the user's is int", {"messages": [{**turn, "content": 3}]})
    refused(
        r"row 2: .ud83d is half of a character", {"prompt": "a", "output": "x"}, {"prompt": "\ud83d", "output": "x"}
    )
    refused(r"row 1: expected an object with named fields, got int", 3)
    refused("no rows in this file")
    refused("unknown split 'trian'", {"prompt": "a"}, split="trian")
    refused("template: unknown template 'alpacca'.*did you mean 'alpaca'", {"prompt": "a"}, template="alpacca")
    refused("size: expected", {"prompt": "a"}, size=0)
    refused("give the tokenizer", {"prompt": "a"}, max_prompt_length=5)
    refused("root is for the five test sets", {"prompt": "a"}, root=tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    with pytest.raises(CorruptFileError, match=r"bad\.jsonl, line 2: expected one JSON object a line"):
        load_instructions(tmp_path / "bad.jsonl")
    (tmp_path / "bad.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="expected a list of objects, got dict"):
        load_instructions(tmp_path / "bad.json")
    (tmp_path / "bad.parquet").write_text("x")
    with pytest.raises(CorruptFileError, match="expected a parquet file"):
        load_instructions(tmp_path / "bad.parquet")
    (tmp_path / "bad.csv").write_text("x")
    with pytest.raises(InputError, match=r"expected a \.jsonl, \.json or \.parquet file"):
        load_instructions(tmp_path / "bad.csv")
    with pytest.raises(InputError, match=r"no such file, folder or data set; did you mean 'vicuna'"):
        load_instructions("vicunna")
    with pytest.raises(InputError, match="no such file"):
        load_instructions("data/none.jsonl")


def test_dropped_rows_leave_the_others(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", *({"prompt": text, "output": text} for text in ("a", "", "c")))
    assert list(load_instructions(file, drop_empty=True)["completion"]) == ["a", "c"]


# Prompts that are too long.


def test_long_prompts_keep_their_template(tokenizer: Any, tmp_path: Path) -> None:
    words = " ".join(lm_toys.sentences()[:8])
    file = write(
        tmp_path / "x.jsonl",
        {"instruction": words, "input": "", "output": "x"},
        {"instruction": "Do it.", "input": words, "output": "x"},
        {"instruction": words, "input": words, "output": "x"},
        {"instruction": "Short.", "input": "", "output": "x"},
    )
    whole = load_instructions(file)
    bare = len(prompt_ids(tokenizer, alpaca_prompt("")))
    for limit in (bare + 20, bare + 100):
        data = load_instructions(file, tokenizer=tokenizer, max_prompt_length=limit)
        assert data.column_names == whole.column_names
        assert data[3] == whole[3]
        for prompt, before in zip(list(data["prompt"])[:3], whole["prompt"], strict=False):
            assert len(prompt_ids(tokenizer, prompt)) <= limit
            assert prompt.endswith("\n\n### Response:\n")
            task, full = read_alpaca(prompt), read_alpaca(before)
            assert task is not None
            assert full is not None
            assert full.instruction.startswith(task.instruction)
            assert full.input.startswith(task.input)
            if task.input:
                assert task.instruction == full.instruction
    room = bare + 60
    cut = read_alpaca(load_instructions(file, tokenizer=tokenizer, max_prompt_length=room)[0]["prompt"])
    assert cut is not None
    assert words[len(cut.instruction)] == " "
    assert len(prompt_ids(tokenizer, alpaca_prompt(words[: len(cut.instruction) + 20]))) > room
    with pytest.raises(InputError, match="row 1: its template alone is longer than 10 tokens"):
        load_instructions(file, tokenizer=tokenizer, max_prompt_length=10)


def test_long_messages_and_unknown_templates(tokenizer: Any) -> None:
    words = " ".join(lm_toys.sentences()[:8])
    first = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    chats = datasets.Dataset.from_list([{"prompt": [*first, {"role": "user", "content": words}]}])
    row = fit_prompts(chats, tokenizer, 60)[0]["prompt"]
    assert row[:2] == first
    assert words.startswith(row[2]["content"])
    assert 40 < len(prompt_ids(tokenizer, row)) <= 60
    plain = datasets.Dataset.from_list([{"prompt": f"Do:\n\n{words}", "instruction": "Do:", "input": words}])
    assert fit_prompts(plain, tokenizer, 60)[0]["prompt"].startswith("Do:\n\n")
    with pytest.raises(InputError, match="row 1: its prompt has more than 60 tokens and is of no known template"):
        fit_prompts(datasets.Dataset.from_list([{"prompt": words}]), tokenizer, 60)
    with pytest.raises(InputError, match="expected a column prompt, found text"):
        fit_prompts(datasets.Dataset.from_list([{"text": words}]), tokenizer, 60)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="this tokenizer has no chat template"):
        fit_prompts(chats, tokenizer, 60)


# Tokens.


@pytest.mark.parametrize("kind", ["instructions", "dialogues", "chat", "plain"])
def test_tokens_are_those_of_the_trainer(kind: str, tokenizer: Any, student: Any, tmp_path: Path) -> None:
    data = {
        "instructions": lm_toys.instructions,
        "dialogues": lm_toys.dialogues,
        "chat": lambda: datasets.Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": row["prompt"]}],
                    "completion": [{"role": "assistant", "content": row["completion"]}],
                }
                for row in lm_toys.instruction_rows(6)
            ]
        ),
        "plain": lambda: datasets.Dataset.from_list([{"text": text} for text in lm_toys.sentences()[:6]]),
    }[kind]()
    trainer = lm_toys.make_trainer(tmp_path, tokenizer, student, None, train_dataset=data, method="sft", max_length=64)
    rows = tokenise(data, tokenizer, max_length=64)
    for name in ("input_ids", "labels"):
        assert list(rows[name]) == list(trainer.train_dataset[name])
    answer = [token for token in rows[0]["labels"] if token != -100]
    if kind != "plain":
        assert answer[-1] == tokenizer.eos_token_id or len(rows[0]["labels"]) == 64
    else:
        assert answer == rows[0]["input_ids"]


def test_tokenise_refuses_bad_data(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"expected the columns prompt and completion.*found a, b"):
        tokenise(datasets.Dataset.from_list([{"a": 1, "b": 2}]), tokenizer)
    with pytest.raises(InputError, match="completions are empty"):
        tokenise(datasets.Dataset.from_list([{"prompt": "a", "completion": " "}]), tokenizer)
    with pytest.raises(InputError, match="max_length: expected at least 2"):
        tokenise(lm_toys.instructions(2), tokenizer, max_length=1)
    with pytest.raises(InputError, match="fill max_length=4"):
        tokenise(lm_toys.instructions(2), tokenizer, max_length=4)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        tokenise(lm_toys.dialogues(2), tokenizer)
