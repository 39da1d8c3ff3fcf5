"""Instruction data by name or path, in the form that trainers and evaluation take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abkd.engine import say
from abkd.errors import InputError, nearest, needed
from abkd.lm.data._alpaca import Instruction, alpaca_prompt
from abkd.lm.data._fit import fit_prompts
from abkd.lm.data._layouts import Example, examples_of, with_answers
from abkd.lm.data._sets import TEST_SETS, InstructionSet
from abkd.lm.data._where import Found, carried_names, find

TEMPLATES = ("alpaca", "chat", "plain")


def load_instructions(
    name: str | os.PathLike[str],
    split: str = "train",
    *,
    template: str = "alpaca",
    tokenizer: Any = None,
    max_prompt_length: int | None = None,
    answers: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    root: str | os.PathLike[str] | None = None,
    size: int | None = None,
    drop_empty: bool = False,
) -> Any:
    """Instructions as a `datasets.Dataset` that `DistillationTrainer` and `evaluate` take.

    Args:
        name: one of `instruction_names()`; a file, .jsonl, .json or .parquet; a folder of MiniLLM's layout
            (train, valid, test or raw.jsonl) or of `save_to_disk`; or a repository of the hub, "owner/name".
            Rows may have: instruction (with input or context) and output or response; instruction and instances,
            as Self-Instruct; prompt and completion or output; messages or conversations; question_id and text or
            turns, as Vicuna, whose answers are in files of their own.
        split: "train", "validation" or "test". Of "dolly", and of a folder with raw.jsonl and no files of these
            names, the first 1000 rows of raw.jsonl are "validation" and the others "train", as published; valid.jsonl
            is "test". In other folders it is "validation", and "test" where there is no test file.
        template: how instruction and input become a prompt. "alpaca": the text of the published runs
            (`alpaca_prompt`). "chat": a user's message, for the tokenizer's chat template. "plain": nothing added.
            Rows of messages, and prompts that are not of the Alpaca template, stay what they are.
        tokenizer: needed for "chat" (it is checked to have a template) and for `max_prompt_length`.
        max_prompt_length: tokens; a longer prompt has its input, then its instruction, cut at the end, never the
            template. Dialogues stay whole: in training `max_length` cuts them.
        answers: of Vicuna's layout, a file or several; each gives one more reference to every question.
        root: the folder of MiniLLM's data, where the five test sets are then taken from instead of the hub.
        size: only the first so many rows.
        drop_empty: leave rows with an empty or missing response out, instead of refusing them.

    Returns:
        Columns `prompt`, `completion` (the first reference) and `references`, `instruction` and `input`; or
        `messages`. Without any answers there is only `prompt`, for generation.

    Raises:
        InputError: an unknown name, split or template; rows without the needed fields, or of two kinds; empty
            responses; a tokenizer without a chat template; a prompt that cannot be shortened enough.
        CorruptFileError: a file that is not JSON.
    """
    if template not in TEMPLATES:
        raise InputError(f"template: unknown template {template!r}; {nearest(str(template), TEMPLATES)}")
    _check_tokenizer(template, tokenizer, max_prompt_length)
    if size is not None and (isinstance(size, bool) or size < 1):
        raise InputError(f"size: expected a number of rows of at least 1, got {size!r}")
    found = find(os.fspath(name), split, answers=_paths(answers), root=None if root is None else Path(root))
    examples = _chosen(_examples(found), found.known, found.where)
    rows = _rows(examples[:size], template, found.where, drop_empty)
    with needed("datasets", "lm"):
        import datasets

    dataset = datasets.Dataset.from_list(rows)
    if max_prompt_length is not None and "prompt" in dataset.column_names:
        whole = dataset["prompt"]
        dataset = fit_prompts(dataset, tokenizer, max_prompt_length, name=found.where)
        cut = sum(one != other for one, other in zip(whole, dataset["prompt"], strict=True))
        if cut:
            say(f"{found.where}: {cut} of {len(dataset)} prompts shortened to max_prompt_length={max_prompt_length}")
    return dataset


def instruction_names() -> tuple[str, ...]:
    """The names that `load_instructions` knows: the five test sets, and the data that this package carries."""
    return (*TEST_SETS, *carried_names())


def _check_tokenizer(template: str, tokenizer: Any, max_prompt_length: int | None) -> None:
    if max_prompt_length is not None:
        if isinstance(max_prompt_length, bool) or max_prompt_length < 1:
            raise InputError(f"max_prompt_length: expected a number of tokens of at least 1, got {max_prompt_length!r}")
        if tokenizer is None:
            raise InputError("max_prompt_length counts tokens: give the tokenizer")
    if template == "chat" and tokenizer is not None and getattr(tokenizer, "chat_template", None) is None:
        raise InputError(
            "template 'chat' needs a tokenizer with a chat template, and this one has none: use template 'alpaca', or "
            "an instruct model's tokenizer"
        )


def _paths(answers: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None) -> tuple[Path, ...]:
    if answers is None:
        return ()
    if isinstance(answers, str | os.PathLike):
        return (Path(answers),)
    return tuple(Path(path) for path in answers)


def _examples(found: Found) -> list[Example]:
    if found.answers is not None:
        return with_answers(found.records, found.answers, found.where)
    return examples_of(found.records, found.where, minillm=found.known is not None)


def _chosen(examples: list[Example], known: InstructionSet | None, where: str) -> list[Example]:
    """What a published test set keeps of its data; says so where it is not as large as published."""
    if known is None:
        return examples
    kept = examples[: known.cap]
    if known.size is not None and len(kept) != known.size:
        say(f"{where}: {len(kept)} rows, and the published {known.title} has {known.size}: scores cannot be compared")
    return kept


def _rows(examples: list[Example], template: str, where: str, drop_empty: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    empty: list[int] = []
    missing = _without_response(examples)
    if missing and not drop_empty:
        raise InputError(
            f"{where}: {len(missing)} of {len(examples)} rows have no response (missing or null; row {missing[0]} is "
            "the first), the others have: add them, set drop_empty, or leave out all responses for prompts alone"
        )
    for number, example in enumerate(examples, 1):
        row = _row(example, template)
        if number in missing or _is_empty(row):
            empty.append(number)
        else:
            rows.append(row)
    if empty and not drop_empty:
        raise InputError(
            f"{where}: {len(empty)} of {len(examples)} responses are empty (rows {', '.join(map(str, empty[:5]))}"
            f"{', ...' if len(empty) > 5 else ''}): remove these rows, or set drop_empty"
        )
    if not rows:
        raise InputError(f"{where}: no rows {'with a response ' if empty else ''}in this split")
    _check_answered(rows, where)
    kinds = {(*sorted(row), isinstance(row.get("prompt"), str)) for row in rows}
    if len(kinds) > 1:
        raise InputError(
            f"{where}: rows of two kinds: {' and '.join(_kind(kind) for kind in sorted(kinds, key=str)[:2])}; "
            "keep them in two files"
        )
    return rows


def _check_answered(rows: list[dict[str, Any]], where: str) -> None:
    """Every dialogue has a turn of the assistant."""
    for number, row in enumerate(rows, 1):
        roles = [message["role"] for message in row.get("messages", [{"role": "assistant"}])]
        if "assistant" not in roles:
            raise InputError(
                f"{where}, row {number}: no turn of the assistant in messages, so nothing to learn; its roles are "
                f"{', '.join(dict.fromkeys(roles))}"
            )


def _without_response(examples: list[Example]) -> list[int]:
    """Which rows (from 1) have a prompt and no response, where others have both."""
    prompts = [number for number, example in enumerate(examples, 1) if example.messages is None]
    missing = [number for number in prompts if not examples[number - 1].references]
    return [] if len(missing) == len(prompts) else missing


def _kind(kind: tuple[Any, ...]) -> str:
    return f"{', '.join(kind[:-1])} ({'text' if kind[-1] else 'messages'})"


def _row(example: Example, template: str) -> dict[str, Any]:
    if example.messages is not None:
        return {"messages": example.messages}
    prompt = _prompt(example, template)
    task = example.task or Instruction("")
    row: dict[str, Any] = {"prompt": prompt, "instruction": task.instruction, "input": task.input}
    if example.references:
        answer = next((text for text in example.references if text.strip()), example.references[0])
        row["completion"] = [{"role": "assistant", "content": answer}] if isinstance(prompt, list) else answer
        row["references"] = list(example.references)
    return row


def _prompt(example: Example, template: str) -> str | list[dict[str, Any]]:
    if example.task is None:
        return example.prompt or ""
    if template == "alpaca":
        return example.prompt if isinstance(example.prompt, str) else alpaca_prompt(*example.task)
    text = "\n\n".join(part for part in example.task if part)
    return [{"role": "user", "content": text}] if template == "chat" else text


def _is_empty(row: Mapping[str, Any]) -> bool:
    """Whether a row has a response with nothing in it; for several references, none with anything."""
    if "messages" in row:
        last = row["messages"][-1]
        return last["role"] == "assistant" and not last["content"].strip()
    return "references" in row and not any(text.strip() for text in row["references"])
