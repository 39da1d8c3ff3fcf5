"""Responses that were cut at a number of tokens: their tokens count, an end that nobody wrote does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abkd.lm._row_forms import ENDED


def without_false_ends(rows: Any, tokenizer: Any) -> Any:
    """Tokenised rows of prompt and completion, in which cut completions stop at their last token.

    What the template or the trainer appends to a completion (EOS, a line break) is taken off where the column
    `completion_ended` is False.

    Args:
        rows: with `input_ids`, `labels`, `prompt`, `completion` and `completion_ended`.
        tokenizer: that made them.
    """

    def cut(row: Mapping[str, Any]) -> dict[str, Any]:
        if row[ENDED]:
            return {}
        length = _common(row["input_ids"], _without_end(row, tokenizer))
        return {name: row[name][:length] for name in ("input_ids", "labels")}

    return rows.map(cut)


def _without_end(row: Mapping[str, Any], tokenizer: Any) -> list[int]:
    """The tokens of prompt and completion alone."""
    prompt, completion, end = row["prompt"], row["completion"], tokenizer.eos_token
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt + completion.removesuffix(end))["input_ids"])
        while ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers add it by themselves
            ids.pop()
        return ids
    text: str = tokenizer.apply_chat_template(prompt + completion, tokenize=False)
    content: str = completion[-1]["content"].strip()  # as many templates do
    place = text.rfind(content) if content else -1
    return list(tokenizer(text[: max(place, 0) + len(content)], add_special_tokens=False)["input_ids"])


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens both begin with."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))
