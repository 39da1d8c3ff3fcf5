"""The forms that rows of text may have, and what the trainer asks of them before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from abkd.engine import say
from abkd.errors import InputError

ENDED = "completion_ended"
"""Column (bool) of completions that may have been cut: where it is False, no end is learnt."""
_ASSISTANT = ("assistant", "gpt")
_FORMS = (
    "prompt and completion (strings, or lists of messages), messages (a dialogue), input_ids and labels (tokenised), "
    "or text (plain)"
)


def as_dataset(given: Any, where: str) -> Any:
    """A list of rows as a `datasets.Dataset`; all else as it is.

    Raises:
        InputError: rows that are no dicts, or have values of different kinds in one column.
    """
    if not isinstance(given, list):
        return given
    import datasets

    rows = cast("list[Any]", given)
    odd = next((number for number, row in enumerate(rows, 1) if not isinstance(row, Mapping)), None)
    if odd is not None:
        raise InputError(f"{where}, row {odd}: expected a dict of columns, got {type(rows[odd - 1]).__name__}")
    try:
        return datasets.Dataset.from_list([dict(row) for row in rows])
    except (pyarrow_error(), UnicodeEncodeError, OverflowError) as error:
        raise InputError(f"{where}: these rows make no table ({error}): one kind of value in each column") from error


def pyarrow_error() -> type[Exception]:
    """What pyarrow raises of values that do not fit together."""
    import pyarrow

    return pyarrow.ArrowException


def check_columns(dataset: Any, where: str, text_field: str, *, prompts: bool = False) -> dict[str, Any]:
    """The first row of a data set whose columns are one of TRL's forms.

    Args:
        dataset: the rows.
        where: their name, for messages.
        text_field: the column of plain text.
        prompts: take prompts without completions, which a model is to write.

    Raises:
        InputError: it is empty, or has other columns.
    """
    if dataset is None or isinstance(dataset, str) or not hasattr(dataset, "__iter__"):
        raise InputError(
            f"{where}: expected a datasets.Dataset or a list of dicts, with the columns {_FORMS}; got {dataset!r:.80} "
            "(abkd.lm.load_instructions reads files)"
        )
    row: Any = next(iter(dataset), None)
    if row is None:
        raise InputError(f"{where} is empty: expected at least one row")
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: expected rows with columns (a datasets.Dataset), got {type(row).__name__}")
    columns = dict(cast("Mapping[str, Any]", row))
    known = (
        {"prompt", "completion"} <= set(columns) or (prompts and "prompt" in columns),
        bool({"messages", "conversations", "input_ids", text_field} & set(columns)),
    )
    if not any(known):
        raise InputError(f"{where}: expected the columns {_FORMS}; found {', '.join(sorted(columns)) or 'none'}")
    return columns


def of_one_form(dataset: Any, row: Mapping[str, Any], where: str, text_field: str) -> tuple[Any, dict[str, Any]]:
    """Rows, and the first of them, without the columns of other forms than one: the first that they have of input_ids,
    prompt and completion, messages, conversations, text.

    TRL looks at whichever column it meets, and would take a dialogue's text for a prompt's, or end the wrong one.
    """
    forms = (("input_ids",), ("prompt", "completion"), ("messages",), ("conversations",), (text_field,))
    form = next((form for form in forms if {*form} <= {*row}), ())
    others = sorted({name for each in forms for name in each if name in row} - {*form})
    if not form or not others:
        return dataset, dict(row)
    say(f"{where}: trained on {' and '.join(form)}; {', '.join(others)} left out")
    return dataset.remove_columns(others), {name: value for name, value in row.items() if name not in others}


def check_completions(dataset: Any, where: str) -> None:
    """No response is empty: an empty one would teach nothing but to stop. (A model may well have written nothing.)

    Raises:
        InputError: some are, or some dialogues have no answer; the message says which.
    """
    columns = getattr(dataset, "column_names", None) or ()
    if not hasattr(dataset, "__len__") or ENDED in columns or "input_ids" in columns:
        return
    name = next((known for known in ("completion", "messages", "conversations") if known in columns), None)
    if name is None:
        return
    answer = _text if name == "completion" else _answers
    values = list(dataset[name])
    prompts = list(dataset["prompt"]) if name == "completion" and "prompt" in columns else values
    mixed = next((place for place, pair in enumerate(zip(prompts, values, strict=True)) if _mixed(*pair)), None)
    if mixed is not None:
        raise InputError(
            f"{where}: row {mixed}: prompt is {_kind(prompts[mixed])} and completion {_kind(values[mixed])}: make both "
            "strings, or both lists of messages"
        )
    odd = next((index for index, value in enumerate(values) if not isinstance(value, str | list)), None)
    if odd is not None:
        expected = "text, or a list of messages" if name == "completion" else "a list of messages"
        came = "none: it is missing or null" if values[odd] is None else type(values[odd]).__name__
        raise InputError(f"{where}: row {odd}: expected {expected} in {name}, got {came}")
    empty = [index for index, value in enumerate(values) if not answer(value).strip()]
    if empty:
        shown = ", ".join(str(index) for index in empty[:5]) + (", ..." if len(empty) > 5 else "")
        what = "completions are empty" if name == "completion" else "dialogues have no answer of the assistant"
        roles = "" if name == "completion" else f"; the roles in row {empty[0]} are {_roles(values[empty[0]])}"
        raise InputError(f"{where}: {len(empty)} of {len(dataset)} {what} (rows {shown}){roles}; remove these rows")


def check_labels(dataset: Any, where: str) -> None:
    """The labels of tokenised rows are their tokens, or -100.

    Raises:
        InputError: some row has fewer or more labels than tokens, or a label that is another token.
    """
    columns = set(getattr(dataset, "column_names", None) or ())
    if not hasattr(dataset, "__len__") or not {"input_ids", "labels"} <= columns:
        return
    for place, pair in enumerate(zip(dataset["input_ids"], dataset["labels"], strict=True)):
        ids, labels = (np.asarray(each) for each in pair)
        if len(ids) != len(labels):
            raise InputError(f"{where}: row {place}: {len(ids)} input_ids and {len(labels)} labels; give one a token")
        odd = ((labels != -100) & (labels != ids)).nonzero()[0]
        if len(odd):
            at = int(odd[0])
            raise InputError(
                f"{where}: row {place}: labels[{at}] is {labels[at]} and input_ids[{at}] {ids[at]}: a label is the "
                "token itself where it counts, else -100 (the loss shifts them)"
            )


def check_template(row: Mapping[str, Any], tokenizer: Any) -> None:
    """Conversations need a chat template.

    Raises:
        InputError: the tokenizer has none.
    """
    if is_dialogue(row) and tokenizer.chat_template is None:
        raise InputError(
            "the data are conversations and the tokenizer has no chat template: set chat_template_path, use an "
            "instruct model's tokenizer, or give prompt and completion as strings"
        )


def can_mark_answers(tokenizer: Any) -> bool:
    """Whether the chat template tells the assistant's tokens from the others, or TRL knows how to make it."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if has_generation_markers(tokenizer.chat_template):
        return True
    try:
        get_training_chat_template(tokenizer)
    except ValueError:
        return False
    return True


def split_turns(dataset: Any, where: str) -> Any:
    """Dialogues as rows of prompt and completion, one for each of the assistant's turns.

    Every token that the assistant wrote is the target of one row, as it would be of the whole dialogue.

    Raises:
        InputError: a data set that cannot be mapped, or a dialogue without an answer.
    """
    columns = list(getattr(dataset, "column_names", None) or [])
    if not columns:
        raise InputError(
            f"{where}: this chat template does not mark the assistant's tokens; give prompt and completion"
        )
    name = "messages" if "messages" in columns else "conversations"

    def split(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"prompt": [], "completion": []}
        for messages in batch[name]:
            for place, turn in enumerate(messages):
                if turn.get("role", turn.get("from")) in _ASSISTANT:
                    found["prompt"].append(messages[:place])
                    found["completion"].append([turn])
        return found

    rows = dataset.map(split, batched=True, remove_columns=columns)
    check_columns(rows, f"{where}, its assistant's turns", name)
    return rows


def is_dialogue(row: Mapping[str, Any]) -> bool:
    """Whether a row holds messages."""
    value = row.get("messages", row.get("conversations", row.get("prompt")))
    return isinstance(value, list) and "input_ids" not in row


def wants_assistant_only(row: Mapping[str, Any]) -> bool:
    """Whether the loss must be told to leave the user's turns out: whole dialogues in one column."""
    return is_dialogue(row) and "prompt" not in row


def report_dropped(before: int | None, dataset: Any, where: str, max_length: int | None, *, packed: bool) -> None:
    """Say how many rows had a prompt so long that no response was left.

    Args:
        before: how many rows there were, None where that is not known.
        dataset: what is left of them.
        where: their name.
        max_length: what they were cut to.
        packed: several are in one row now, so that they cannot be counted.

    Raises:
        InputError: all of them.
    """
    if before is None or not hasattr(dataset, "__len__"):
        return
    why = "no token of them counts" if max_length is None else f"their prompts fill max_length={max_length}"
    left = len(dataset)
    if left == 0:
        raise InputError(
            f"{where}: none of {before} rows has a response left, {why}: raise max_length or shorten the prompts"
        )
    if left < before and not packed:
        say(f"{where}: {before - left} of {before} rows left out, {why}")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = cast("list[Any]", value)
        return " ".join(str(part.get("content", "")) if isinstance(part, Mapping) else str(part) for part in parts)
    return ""


def _mixed(prompt: Any, completion: Any) -> bool:
    """Whether one is text and the other a list of messages."""
    return {type(prompt), type(completion)} == {str, list}


def _kind(value: Any) -> str:
    return "a string" if isinstance(value, str) else "a list of messages"


def _roles(messages: list[dict[str, Any]]) -> str:
    found = dict.fromkeys(str(turn.get("role", turn.get("from"))) for turn in messages)
    return ", ".join(found) or "none"


def _answers(messages: list[dict[str, Any]]) -> str:
    """What the assistant says in a dialogue."""
    return " ".join(
        str(turn.get("content", turn.get("value")) or turn.get("tool_calls") or "")
        for turn in messages
        if turn.get("role", turn.get("from")) in _ASSISTANT
    )
