"""Texts that the student writes to validation prompts, scored by ROUGE-L: the published choice of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from abkd.errors import InputError, check_keys
from abkd.lm._decoding import Decoding
from abkd.lm._generate import writing_student
from abkd.lm.evaluation import RougeL, write_responses
from abkd.lm.evaluation._evaluate import from_messages
from abkd.lm.evaluation._responses import check_prompts

ROUGE_L = "rouge_l"
"""The metric's name, for `select_by`."""


@dataclass(frozen=True)
class ValidationTexts:
    """What is written in each evaluation, sampled at temperature 1 as in the published development runs.

    Attributes:
        size: only the first so many of the evaluation's rows, at least 1; None takes all.
        max_new_tokens: of a response, at least 1.
    """

    size: int | None = None
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        for name, value in (("size", 1 if self.size is None else self.size), ("max_new_tokens", self.max_new_tokens)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"validation_texts.{name}: expected a whole number of at least 1, got {value!r}")

    def decoding(self) -> Decoding:
        """The published development runs' decoding; prompts are taken as the trainer has them."""
        return Decoding(max_new_tokens=self.max_new_tokens, no_repeat_ngram_size=0, max_prompt_length=None)


def check_validation_prompts(dataset: Any, settings: ValidationTexts, tokenizer: Any, config: Any) -> None:
    """The student can take all prompts of `dataset` and has positions left for its answers.

    Args:
        dataset: rows of prompts (their answers may not be there yet) or of messages.
        settings: how many rows, and how long an answer may be.
        tokenizer: the student's.
        config: the student's.

    Raises:
        InputError: it cannot or has not.
    """
    column = "prompt" if "prompt" in dataset.column_names else "messages"
    prompts = list(dataset[column])[: settings.size]
    if column == "messages":
        prompts = [messages[:-1] for messages in prompts]
    check_prompts(prompts, tokenizer, settings.decoding(), config, "validation_texts")


def validation_texts_of(settings: Mapping[str, Any]) -> ValidationTexts:
    """`ValidationTexts` from plain data.

    Raises:
        InputError: an unknown key, or a value out of range.
    """
    check_keys(settings, [field.name for field in fields(ValidationTexts)], "validation_texts")
    return ValidationTexts(**settings)


class ValidationWriter:
    """Lets a trainer's student answer validation prompts; each rank writes its share.

    The texts follow from the run's seed, so that two evaluations of the same weights give the same score, and the
    program's generators are left as they were.

    Args:
        trainer: the trainer.
        dataset: rows of prompt and references or completion, or of messages that end with the assistant's answer.
        settings: how many, and how long.

    Raises:
        InputError: no such rows, or prompts that leave the student no positions to answer.
        MissingPackageError: rouge-score is not installed.
    """

    def __init__(self, trainer: Any, dataset: Any, settings: ValidationTexts) -> None:
        self._trainer = trainer
        self._decoding = settings.decoding()
        self._rouge = RougeL()
        self._pairs = _pairs(dataset, settings.size)
        check_validation_prompts(dataset, settings, trainer.processing_class, trainer.model.config)

    def score(self) -> tuple[float, int]:
        """The sum of ROUGE-L (0 to 100) over this rank's texts, and their number."""
        trainer, args = self._trainer, self._trainer.args
        mine = self._pairs[args.process_index :: args.world_size]
        with writing_student(trainer) as student:
            found = write_responses(
                student,
                trainer.processing_class,
                [prompt for prompt, _ in mine],
                decoding=self._decoding,
                seed=args.seed + args.process_index,
                batch_size=args.per_device_eval_batch_size,
            )
        scores = [self._rouge(one.text, references) for one, (_, references) in zip(found, mine, strict=True)]
        return sum(scores), len(scores)


def _pairs(dataset: Any, size: int | None) -> list[tuple[Any, list[str]]]:
    """Prompts and the texts that their answers are compared with."""
    columns: list[str] = list(getattr(dataset, "column_names", None) or [])
    answered = "prompt" in columns and bool({"references", "completion"} & set(columns))
    if not answered and "messages" not in columns:
        raise InputError(
            "ROUGE-L in evaluation needs an eval_dataset with prompt and completion (or references), or messages; "
            f"found {', '.join(columns) or 'no columns'}"
        )
    rows = dataset if size is None else dataset.select(range(min(size, len(dataset))))
    return [_pair(row) for row in (rows if "prompt" in columns else from_messages("eval_dataset", rows))]


def _pair(row: Mapping[str, Any]) -> tuple[Any, list[str]]:
    if row.get("references"):
        return row["prompt"], list(row["references"])
    completion = row["completion"]
    return row["prompt"], [completion if isinstance(completion, str) else completion[-1]["content"]]
