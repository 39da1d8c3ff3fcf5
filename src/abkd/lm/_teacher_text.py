"""Completions that the teacher writes once, stored part by part (Kim and Rush 2016, arXiv 1606.07947)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from abkd.engine import Report
from abkd.errors import InputError
from abkd.lm._generate import check_lengths, end_tokens, pad_token, seeded, write_texts
from abkd.lm._row_forms import ENDED, is_dialogue
from abkd.lm._student_settings import Sampling
from abkd.lm.data import prompt_ids
from abkd.storage import atomic_write_json, read_json
from abkd.teachers import fingerprint_of
from abkd.teachers._token_rows import vocabulary_of

_SETTINGS_FILE = "settings.json"
_HALF_LETTER = "\ufffd"  # what is left of a character whose other bytes were cut off


class TeacherText:
    """A data set's completions as the teacher writes them: kept in a folder, part by part, and resumed from there.

    A part is written in one step under its number, so nothing half-written is ever read; each part has a seed of
    its own, so a resumed folder ends with the text of one that was never stopped. The text passes from one
    tokenizer to the other as characters, so teacher and student may have different ones.

    Args:
        teacher: a causal language model; put in eval mode and frozen. None only reads what is there.
        tokenizer: the teacher's.
        sampling: how it writes.
        folder: where the parts go.
        seed: of the sampling.
        batch: rows a part.
        fingerprint: of the teacher whose text is to be read, where there is no teacher.
    """

    def __init__(
        self,
        teacher: Any,
        tokenizer: Any,
        sampling: Sampling,
        folder: Path,
        *,
        seed: int = 0,
        batch: int = 8,
        fingerprint: str | None = None,
    ) -> None:
        self._teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self._fingerprint = fingerprint
        self._tokenizer, self._sampling = tokenizer, sampling
        self._folder, self._seed, self._batch = folder, seed, batch

    def of(
        self,
        dataset: Any,
        *,
        rank: int = 0,
        ranks: int = 1,
        wait: Callable[[], None] | None = None,
        report: Report | None = None,
    ) -> Any:
        """The data set with columns `prompt`, `completion` (the teacher's) and `completion_ended`.

        Of a dialogue, the last turn of the assistant is written anew.

        Args:
            dataset: rows of prompt and completion, or of messages.
            rank: of this process, which writes every `ranks`-th part.
            ranks: how many processes write.
            wait: returns when all processes have called it.
            report: told how far the work is.

        Raises:
            InputError: rows of another form, prompts that leave no room for a text, a folder with text of another data
                set, teacher or sampling, or one that is not whole where there is no teacher to finish it.
        """
        from datasets import Dataset

        prompts = [prompt_of(row) for row in dataset]
        self._open(prompts, rank)
        self._check_room(prompts)
        parts = range(0, len(prompts), self._batch)
        for start in parts:
            number = start // self._batch
            if number % ranks == rank and not self._path(number).is_file():
                written = self._write(prompts[start : start + self._batch], number)
                atomic_write_json(self._path(number), [{"text": text, "ended": ended} for text, ended in written])
            if report is not None:
                report((number + 1) / len(parts), "")
        if wait is not None:
            wait()
        answers = [answer for number in range(len(parts)) for answer in read_json(self._path(number))]
        return Dataset.from_list([_row(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)])

    def _open(self, prompts: list[Any], rank: int) -> None:
        """Note what the text is of, or check that the folder's is of the same."""
        content = hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()
        wanted = {
            "prompts": content,
            "teacher": self._fingerprint if self._teacher is None else fingerprint_of(self._teacher),
            "sampling": vars(self._sampling),
            "seed": self._seed,
            "batch": self._batch,
        }
        path = self._folder / _SETTINGS_FILE
        if path.is_file():
            differing = [name for name, value in wanted.items() if read_json(path).get(name) != value]
            if differing:
                raise InputError(
                    f"{self._folder}: holds text of another run (other {', '.join(differing)}): remove it, or give "
                    "this run another output_dir"
                )
        elif self._teacher is None:
            raise InputError(f"{self._folder}: expected text that a teacher wrote, found none")
        elif rank == 0:
            atomic_write_json(path, wanted)

    def _check_room(self, prompts: list[Any]) -> None:
        """The teacher has positions for the prompts whose texts are missing, before it writes the first."""
        if self._teacher is not None:
            written = [self._path(place // self._batch).is_file() for place in range(len(prompts))]
            ids = [prompt_ids(self._tokenizer, one) for one, done in zip(prompts, written, strict=True) if not done]
            check_lengths(self._teacher.config, ids, self._sampling.max_new_tokens, "the teacher's text")

    def _write(self, prompts: list[Any], number: int) -> list[tuple[str, bool]]:
        """The texts of a part, and whether each came to its end."""
        tokenizer, teacher = self._tokenizer, self._teacher
        if teacher is None:
            raise InputError(f"{self._folder}: not all of the teacher's text is here: let the teacher finish it")
        ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
        ends = end_tokens(teacher, tokenizer)
        with seeded(teacher.device, self._seed * 1_000_003 + number):
            written = write_texts(
                teacher,
                ids,
                self._sampling.decoding(),
                pad=pad_token(tokenizer),
                ends=ends,
                vocabulary=vocabulary_of(tokenizer),
            )
        return [self._text(tokens, tokens[-1] in ends) for tokens in written]

    def _text(self, tokens: list[int], ended: bool) -> tuple[str, bool]:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return (text, True) if ended else (text.rstrip(_HALF_LETTER), False)

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}.json"


def prompt_of(row: Mapping[str, Any]) -> Any:
    """What the teacher is to answer: a string, or messages up to the assistant's last turn.

    Raises:
        InputError: the row has neither prompt nor dialogue.
    """
    if "prompt" in row:
        return row["prompt"]
    if not is_dialogue(row):
        raise InputError(
            f"the teacher needs prompts to answer: expected prompt and completion, or messages; found {', '.join(row)}"
        )
    messages = cast("list[dict[str, Any]]", row.get("messages", row.get("conversations")))
    last = max((place for place, turn in enumerate(messages) if turn.get("role") == "assistant"), default=len(messages))
    return messages[:last]


def _row(prompt: Any, answer: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the data set."""
    text = answer["text"]
    completion = text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
    return {"prompt": prompt, "completion": completion, ENDED: answer["ended"]}
