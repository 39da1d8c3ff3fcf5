"""The Alpaca-style template of the published instruction runs, and shortening a prompt without cutting it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

_TASK = "Below is an instruction that describes a task"
_INPUT = ", paired with an input that provides further context"
_WRITE = ". Write a response that appropriately completes the request.\n\n"
_PLAIN = f"{_TASK}{_WRITE}### Instruction:\n{{instruction}}\n\n### Response:\n"
_PAIRED = f"{_TASK}{_INPUT}{_WRITE}### Instruction:\n{{instruction}}\n\n### Input:\n{{input}}\n\n### Response:\n"
_READ = re.compile(
    re.escape(_TASK)
    + f"(?:{re.escape(_INPUT)})?"
    + re.escape(_WRITE)
    + r"### Instruction:\n(?P<instruction>.*?)\n\n(?:### Input:\n(?P<input>.*?)\n\n)?### Response:\n?",
    re.DOTALL,
)


class Instruction(NamedTuple):
    """A task in words, and the text that it is about (empty where there is none)."""

    instruction: str
    input: str = ""


def alpaca_prompt(instruction: str, input: str = "") -> str:  # noqa: A002 - the template's own word
    """A prompt as in the published runs (MiniLLM, DistiLLM, ABKD): the template, up to "### Response:" and newline."""
    if input:
        return _PAIRED.format_map({"instruction": instruction, "input": input})
    return _PLAIN.format_map({"instruction": instruction})


def read_alpaca(prompt: str) -> Instruction | None:
    """The instruction and input in a prompt of this template; None for any other text."""
    found = _READ.fullmatch(prompt)
    return None if found is None else Instruction(found["instruction"], found["input"] or "")


def shortened(task: Instruction, fits: Callable[[Instruction], bool]) -> Instruction | None:
    """The task with as much of its end cut off as is needed; the input first, then the instruction.

    Args:
        task: that is too long.
        fits: whether a task is short enough once it stands in its template.

    Returns:
        None if not even the template alone fits.
    """
    if task.input:
        if fits(task._replace(input=task.input[:1])):
            return task._replace(input=_longest(task.input, lambda cut: fits(task._replace(input=cut))))
        return shortened(task._replace(input=""), fits)
    if not fits(Instruction("")):
        return None
    return Instruction(_longest(task.instruction, lambda cut: fits(Instruction(cut))))


def _longest(text: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning of `text` that fits, ending between words where one ends near."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(text[:middle]) else (low, middle - 1)
    cut = text[:low]
    if low < len(text) and not text[low].isspace():
        space = max(cut.rfind(" "), cut.rfind("\n"))
        if space > 0 and fits(cut[:space].rstrip()):
            cut = cut[:space]
    return cut.rstrip()
