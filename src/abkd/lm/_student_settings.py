"""The settings of text that the student, or the teacher, writes for training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from abkd.errors import InputError, check_keys, nearest
from abkd.lm._decoding import Decoding

SCHEDULES = ("constant", "adaptive")


@dataclass(frozen=True)
class Sampling:
    """How text is sampled. None of it touches the loss, whose temperature is another.

    Attributes:
        generation_temperature: of the sampling, above 0.
        top_p: the nucleus, in (0, 1]; 1 is all.
        max_new_tokens: the longest completion, in tokens, at least 1.
    """

    generation_temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        _check_number(self, "generation_temperature", lambda value: value > 0, "above 0")
        _check_number(self, "top_p", lambda value: 0 < value <= 1, "in (0, 1]")
        _check_whole(self, "max_new_tokens", 1)

    def decoding(self) -> Decoding:
        """The same for `write_texts`: nothing else is asked of a text that is trained on."""
        return Decoding(
            temperature=self.generation_temperature,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens,
            no_repeat_ngram_size=0,
            max_prompt_length=None,
        )


Settings = TypeVar("Settings", bound=Sampling)


@dataclass(frozen=True)
class StudentText(Sampling):
    """Text that the student writes while it learns, for a share of the batches.

    Attributes:
        share: of the batches, in [0, 1]; where `schedule` is adaptive, the share at the start, below 1.
        schedule: "constant", or "adaptive": whenever the validation loss (NLL) is at least `tolerance` above the
            anchor, the share grows by `growth` and that loss is the new anchor; the first anchor is the loss before
            training (DistiLLM, arXiv 2402.03898, section 3.2, and its published code).
        growth: in [0, 1].
        tolerance: in nats, at least 0.
        replay: how many of the student's texts each process keeps; 0 keeps none. Once so many are there, a share of
            the student's batches that grows from 0 to 1 over the run is drawn from them; before, and otherwise, text
            is written anew. As many as a process writes in the whole run are never drawn from.
        teacher_mix: share of the teacher in the distribution sampled from, in [0, 1) (MiniLLM, section 2.2).
        vllm: None writes with transformers; a mapping (it may be empty) writes with TRL's `VLLMGeneration`, which
            gets it as keyword arguments, e.g. `{"mode": "server"}`. Needs the package vllm. (Not run here.)
    """

    share: float = 1.0
    schedule: str = "constant"
    growth: float = 0.1
    tolerance: float = 0.1
    replay: int = 0
    teacher_mix: float = 0.0
    vllm: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number(self, "share", lambda value: 0 <= value <= 1, "in [0, 1]")
        _check_number(self, "growth", lambda value: 0 <= value <= 1, "in [0, 1]")
        _check_number(self, "tolerance", lambda value: value >= 0, "of at least 0")
        _check_number(self, "teacher_mix", lambda value: 0 <= value < 1, "in [0, 1)")
        _check_whole(self, "replay", 0)
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule: unknown {self.schedule!r}; {nearest(str(self.schedule), SCHEDULES)}")
        if self.schedule == "constant" and self.share == 0:
            raise InputError("share: 0, so the student would write nothing: leave student_text out")
        if self.schedule == "adaptive" and self.share == 1:
            raise InputError(
                "share: 1, as it is unless given, and an adaptive one grows from where it starts: start lower "
                "(distillm starts at 0), or leave out the schedule"
            )
        if self.vllm is not None and self.teacher_mix > 0:
            raise InputError("vllm: teacher_mix needs both models at each token, which vllm cannot do")


def student_text_of(settings: Mapping[str, Any]) -> StudentText:
    """`StudentText` from plain data.

    Raises:
        InputError: an unknown key, or a value out of range.
    """
    return _made(StudentText, settings, "student_text", "{'share': 0.5}")


def sampling_of(settings: Mapping[str, Any], where: str) -> Sampling:
    """`Sampling` from plain data.

    Raises:
        InputError: an unknown key, or a value out of range.
    """
    return _made(Sampling, settings, where, "{'max_new_tokens': 64}")


def _made(kind: type[Settings], settings: Mapping[str, Any], where: str, example: str) -> Settings:
    check_mapping(settings, where, example)
    check_keys(settings, [field.name for field in fields(kind)], where)
    try:
        return kind(**settings)
    except InputError as error:
        raise InputError(f"{where}.{error}") from error


def check_mapping(value: Any, where: str, example: str) -> None:
    """A setting that is a mapping of settings.

    Raises:
        InputError: it is anything else; the message has an example.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected settings by name, such as {example}, got {value!r}")


def _check_number(owner: Any, name: str, holds: Callable[[float], bool], within: str) -> None:
    value: Any = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
        raise InputError(f"{name}: expected a number {within}, got {value!r}")


def _check_whole(owner: Any, name: str, least: int) -> None:
    value: Any = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}: expected a whole number of at least {least}, got {value!r}")
