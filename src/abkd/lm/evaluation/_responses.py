"""Texts that a model writes to prompts, by the published decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from abkd.errors import InputError
from abkd.lm._decoding import Decoding
from abkd.lm._generate import check_lengths, end_tokens, pad_token, seeded, write_texts
from abkd.lm.data import prompt_ids
from abkd.teachers._token_rows import vocabulary_of


@dataclass(frozen=True)
class Response:
    """What a model wrote.

    Attributes:
        text: up to the end token, without white space around it.
        tokens: their number, the end token included.
        finished: whether it came to an end token.
    """

    text: str
    tokens: int
    finished: bool


def write_responses(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    *,
    decoding: Decoding | None = None,
    seed: int = 10,
    batch_size: int = 16,
    progress: bool = False,
) -> list[Response]:
    """A response to each prompt.

    The texts follow from the seed, the prompts, their order and `batch_size`; the generators of the program around
    are left as they were.

    Args:
        model: a causal language model, in whatever mode.
        tokenizer: its tokenizer.
        prompts: texts, or lists of messages for the chat template.
        decoding: None is the published one. Prompts are taken whole: its `max_prompt_length` is for `evaluate`.
        seed: of the sampling.
        batch_size: prompts at a time, padded on the left.
        progress: show a bar.

    Raises:
        InputError: a prompt without tokens or with too many, or a model with too few positions.
    """
    from tqdm.auto import tqdm

    decoding = decoding or Decoding()
    if batch_size < 1:
        raise InputError(f"batch_size: expected a number of prompts of at least 1, got {batch_size}")
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    check_lengths(model.config, ids, decoding.max_new_tokens)
    ends, pad = end_tokens(model, tokenizer), pad_token(tokenizer)
    vocabulary = vocabulary_of(tokenizer)
    found: list[Response] = []
    with seeded(model.device, seed), tqdm(total=len(ids), unit="text", disable=not progress) as bar:
        for start in range(0, len(ids), batch_size):
            part = ids[start : start + batch_size]
            written = write_texts(model, part, decoding, pad=pad, ends=ends, vocabulary=vocabulary)
            found.extend(_response(tokens, tokenizer, ends) for tokens in written)
            bar.update(len(part))
    return found


def check_prompts(prompts: Sequence[Any], tokenizer: Any, decoding: Decoding, config: Any, name: str) -> None:
    """A model can take all prompts whole and has positions left for its answers.

    Args:
        prompts: texts, or lists of messages.
        tokenizer: the model's.
        decoding: how long a response may be.
        config: the model's.
        name: of the prompts, for messages.

    Raises:
        InputError: it cannot or has not.
    """
    check_lengths(config, [prompt_ids(tokenizer, prompt) for prompt in prompts], decoding.max_new_tokens, name)


def _response(tokens: list[int], tokenizer: Any, ends: Sequence[int]) -> Response:
    finished = bool(tokens) and tokens[-1] in ends
    text = tokenizer.decode(tokens[:-1] if finished else tokens, skip_special_tokens=True)
    return Response(text.strip(), len(tokens), finished)
