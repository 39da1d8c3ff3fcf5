"""The layouts that instruction data come in, and the one form that they are read into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from abkd.errors import InputError, nearest
from abkd.lm.data._alpaca import Instruction, read_alpaca

Messages = list[dict[str, Any]]

_ANSWERS = ("output", "response", "completion", "answer", "references")
_INPUTS = ("input", "context")
_ROLES = {"human": "user", "gpt": "assistant"}
_KNOWN_ROLES = ("user", "assistant", "system", "developer", "tool", "function", "ipython", *_ROLES)
_KNOWN = (
    "instruction (with input or context) and output or response; instruction and instances (Self-Instruct); prompt and "
    "completion or output; messages or conversations; question_id and text or turns (Vicuna, answers in a second file)"
)


@dataclass(frozen=True)
class Example:
    """One task.

    Attributes:
        task: instruction and input, where they are known apart.
        prompt: the whole prompt as given, where it is not made by a template: text, or messages.
        references: possible answers, the first one for training; none where there are only prompts.
        messages: a whole dialogue that ends with the assistant, instead of all of these.
    """

    task: Instruction | None = None
    prompt: str | Messages | None = None
    references: tuple[str, ...] = ()
    messages: Messages | None = None


def examples_of(records: Iterable[Mapping[str, Any]], where: str, *, minillm: bool = False) -> list[Example]:
    """The tasks in records of any of the known layouts; see `load_instructions`.

    Args:
        records: the rows.
        where: their name, for messages.
        minillm: they are of MiniLLM's files.

    Raises:
        InputError: fields that fit no layout (named), or a field of the wrong kind.
    """
    found: list[Example] = []
    for number, record in enumerate(records, 1):
        found.extend(_examples(record, f"{where}, row {number}", minillm))
    return found


def with_answers(
    questions: Iterable[Mapping[str, Any]], answers: Iterable[Mapping[str, Any]], where: str
) -> list[Example]:
    """Vicuna's layout: questions in one file, answers in others, joined by `question_id`.

    Raises:
        InputError: an answer without a question, or a question without an answer.
    """
    texts: dict[Any, list[str]] = {}
    for number, answer in enumerate(answers, 1):
        if "question_id" not in answer:
            raise InputError(f"{where}, answer {number}: expected question_id, found {_fields(answer)}")
        texts.setdefault(answer["question_id"], []).append(_answer_text(answer, f"{where}, answer {number}"))
    examples: list[Example] = []
    for number, question in enumerate(questions, 1):
        if "question_id" not in question:
            raise InputError(f"{where}, question {number}: expected question_id, found {_fields(question)}")
        references = texts.pop(question["question_id"], None)
        if references is None:
            raise InputError(f"{where}: question {question['question_id']} has no answer in the answers given")
        task = Instruction(_question_text(question, f"{where}, question {number}"))
        examples.append(Example(task, references=tuple(references)))
    if texts:
        raise InputError(f"{where}: {len(texts)} answers belong to no question, {next(iter(texts))!r} for one")
    return examples


def is_question(record: Mapping[str, Any]) -> bool:
    """Whether a record is one of Vicuna's questions."""
    return "question_id" in record and ("category" in record or "turns" in record) and "answer_id" not in record


def _examples(record: Mapping[str, Any], where: str, minillm: bool) -> list[Example]:
    if "messages" in record or "conversations" in record:
        return [_dialogue(record, where)]
    if "instances" in record and "instruction" in record:
        return _instances(record, where)
    if "instruction" in record:
        task = Instruction(_text(record, "instruction", where), _first_text(record, _INPUTS, where))
        return [Example(task, references=_references(record, where))]
    if "prompt" in record:
        return [_prompted(record, where, minillm)]
    if is_question(record):
        return [Example(Instruction(_question_text(record, where)))]
    raise InputError(f"{where}: expected {_KNOWN}; found {_fields(record)}")


def _prompted(record: Mapping[str, Any], where: str, minillm: bool) -> Example:
    prompt = record["prompt"]
    references = _references(record, where)
    if isinstance(prompt, list):
        return Example(prompt=_messages(cast("list[Any]", prompt), where, "prompt"), references=references)
    text = _text(record, "prompt", where)
    if "completion" not in record:  # in MiniLLM's files <n> is a line break, elsewhere it is what it says
        lines = text.replace("<n>", "\n")
        text = lines if minillm or read_alpaca(lines) is not None else text
    return Example(task=read_alpaca(text), prompt=text, references=references)


def _dialogue(record: Mapping[str, Any], where: str) -> Example:
    name = "messages" if "messages" in record else "conversations"
    value = record[name]
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list of messages in {name}, got {type(value).__name__}")
    return Example(messages=_messages(cast("list[Any]", value), where, name))


def _messages(value: list[Any], where: str, name: str) -> Messages:
    messages: Messages = []
    for message in value:
        if not isinstance(message, Mapping):
            raise InputError(
                f"{where}: expected messages with role and content in {name}, got {type(message).__name__}"
            )
        fields = cast("Mapping[str, Any]", message)
        role, content = fields.get("role", fields.get("from")), fields.get("content", fields.get("value"))
        if role is None or not {"content", "value"} & set(fields):
            raise InputError(f"{where}: expected role and content in each message of {name}, found {_fields(fields)}")
        if role not in _KNOWN_ROLES:
            raise InputError(f"{where}: unknown role {role!r} in {name}; {nearest(str(role), _KNOWN_ROLES)}")
        if not isinstance(content, str):
            raise InputError(
                f"{where}: expected text as the content of each message of {name}, the {role}'s is "
                f"{type(content).__name__}"
            )
        messages.append({"role": _ROLES.get(role, role), "content": content})
    if not messages:
        raise InputError(f"{where}: {name} is empty")
    return messages


def _instances(record: Mapping[str, Any], where: str) -> list[Example]:
    value = record["instances"]
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: expected a list of instances (input, output), got {type(value).__name__}")
    instruction = _text(record, "instruction", where)
    examples: list[Example] = []
    for instance in cast("list[Any]", value):
        if not isinstance(instance, Mapping):
            raise InputError(f"{where}: expected instances with input and output, got {type(instance).__name__}")
        fields = cast("Mapping[str, Any]", instance)
        task = Instruction(instruction, _first_text(fields, _INPUTS, where))
        examples.append(Example(task, references=_references(fields, where)))
    return examples


def _references(record: Mapping[str, Any], where: str) -> tuple[str, ...]:
    for name in _ANSWERS:
        value = record.get(name)
        if value is None:
            continue
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        texts = [_last_content(part) for part in values]
        if all(isinstance(text, str) for text in texts):
            return tuple(cast("list[str]", texts))
        raise InputError(f"{where}: expected a text or a list of texts in {name}, got {type(value).__name__}")
    return ()


def _last_content(part: Any) -> Any:
    """The text of an answer, also where it is a message."""
    return cast("Mapping[str, Any]", part).get("content") if isinstance(part, Mapping) else part


def _answer_text(answer: Mapping[str, Any], where: str) -> str:
    choices: Any = answer.get("choices")
    if choices:
        return str(choices[0]["turns"][0])
    return _text(answer, "text", where)


def _question_text(question: Mapping[str, Any], where: str) -> str:
    turns: Any = question.get("turns")
    return str(turns[0]) if turns else _text(question, "text", where)


def _first_text(record: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    for name in names:
        if record.get(name) is not None:
            return _text(record, name, where)
    return ""


def _text(record: Mapping[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise InputError(f"{where}: expected text in {name}, got {type(value).__name__}; found {_fields(record)}")
    return value


def _fields(record: Mapping[str, Any]) -> str:
    return f"the fields {', '.join(sorted(map(str, record)))}" if record else "no fields"
