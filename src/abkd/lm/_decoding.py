"""How texts are written to prompts, in training and in evaluation alike."""

from __future__ import annotations

from dataclasses import dataclass

from abkd.errors import InputError


@dataclass(frozen=True)
class Decoding:
    """How texts are written. As it stands, the final evaluation of the published instruction runs.

    Attributes:
        temperature: of the sampling, above 0; 0 takes the most probable token.
        top_p: in (0, 1]; 1 is off.
        top_k: 0 is off.
        max_new_tokens: of a response.
        no_repeat_ngram_size: no n-gram of tokens occurs twice, prompt included; 0 is off.
        max_prompt_length: tokens; `evaluate` shortens longer prompts inside their template. None shortens none.

    Raises:
        InputError: a value out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256
    no_repeat_ngram_size: int = 6
    max_prompt_length: int | None = 256

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise InputError(f"temperature: expected 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p: expected a share in (0, 1], got {self.top_p}")
        for name, least in (("top_k", 0), ("no_repeat_ngram_size", 0), ("max_new_tokens", 1), ("max_prompt_length", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}: expected {least} or more, got {value}")
