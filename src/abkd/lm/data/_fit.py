"""Prompts that are too long: the text in them is cut, their template is kept whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from abkd.errors import InputError
from abkd.lm.data._alpaca import Instruction, alpaca_prompt, read_alpaca, shortened

Prompt = str | list[dict[str, Any]]


def prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The tokens of a prompt as a model is given it: a text as it is, messages in the tokenizer's chat template."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if getattr(tokenizer, "chat_template", None) is None:
        raise InputError("the prompts are messages, and this tokenizer has no chat template: give an instruct model's")
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def fit_prompts(dataset: Any, tokenizer: Any, max_length: int, *, name: str = "") -> Any:
    """A data set whose prompts have at most `max_length` tokens each, template included.

    A longer prompt has the end of its input cut, then the end of its instruction; of messages, the end of the last
    user's message. (Public code keeps the first 256 tokens, which can cut off "### Response:".)

    Args:
        dataset: with a column `prompt`, and `instruction` and `input` where the prompt was made from them.
        tokenizer: that counts.
        max_length: in tokens.
        name: of the data set, for messages.

    Raises:
        InputError: no such column, or a prompt that is too long and has no part known to be cut.
    """
    if "prompt" not in dataset.column_names:
        raise InputError(f"expected a column prompt, found {', '.join(dataset.column_names)}")
    prompts: list[Prompt] = list(dataset["prompt"])
    cut, where = 0, f"{name}, " if name else ""
    for index, prompt in enumerate(prompts):
        if len(prompt_ids(tokenizer, prompt)) > max_length:
            prompts[index] = fitted(prompt, dataset[index], tokenizer, max_length, f"{where}row {index + 1}")
            cut += 1
    if not cut:
        return dataset
    columns = {name: prompts if name == "prompt" else list(dataset[name]) for name in dataset.column_names}
    return dataset.from_dict(columns, features=dataset.features)


def fitted(prompt: Prompt, row: Mapping[str, Any], tokenizer: Any, max_length: int, where: str) -> Prompt:
    """One prompt, cut to `max_length` tokens.

    Raises:
        InputError: it cannot be.
    """
    task, rebuild = _parts(prompt, row)
    if task is not None:
        short = shortened(task, lambda part: len(prompt_ids(tokenizer, rebuild(part))) <= max_length)
        if short is not None:
            return rebuild(short)
        raise InputError(f"{where}: its template alone is longer than {max_length} tokens; raise max_prompt_length")
    raise InputError(
        f"{where}: its prompt has more than {max_length} tokens and is of no known template, so nothing in it can be "
        "cut safely: shorten it, raise max_prompt_length, or give instruction and input apart"
    )


def _parts(prompt: Prompt, row: Mapping[str, Any]) -> tuple[Instruction | None, Callable[[Instruction], Prompt]]:
    """What may be cut in a prompt, and how the prompt is made from it."""
    if isinstance(prompt, list):
        users = [number for number, message in enumerate(prompt) if message.get("role") == "user"]
        if not users:
            return None, lambda _: prompt
        place = users[-1]

        def with_content(task: Instruction) -> Prompt:
            message = {**prompt[place], "content": task.instruction}
            return [*prompt[:place], message, *prompt[place + 1 :]]

        return Instruction(cast("str", prompt[place]["content"])), with_content
    known = Instruction(str(row.get("instruction") or ""), str(row.get("input") or ""))
    plain = "\n\n".join(part for part in known if part)
    if known.instruction and prompt == plain:
        return known, lambda task: "\n\n".join(part for part in task if part)
    return read_alpaca(prompt), lambda task: alpaca_prompt(*task)
